"""Whether the largest part alone of a class is better than all that is predicted of it: validation scans decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.postprocess import keep_largest
from ssmtl_toolkit.engine.metric import Counts
from ssmtl_toolkit.evaluation import scores

_SCANS = 3  # fewer decide nothing
_LEAST = 1e-3  # of a mean Dice; less is a voxel here or there


@dataclass(frozen=True)
class Judged:
    """Dice of one class over validation scans that show it, or have it predicted.

    Attributes:
        scans: how many there are.
        dice: mean of all that is predicted.
        largest: mean of its largest part alone.
        higher: scans in which the largest part alone has the higher Dice.
        lower: those in which it has the lower one.
    """

    scans: int
    dice: float
    largest: float
    higher: int
    lower: int

    @property
    def helps(self) -> bool:
        """Whether its mean is higher by 0.001 or more, and more scans gain than lose, of at least three."""
        return self.scans >= _SCANS and self.largest >= self.dice + _LEAST and self.higher > self.lower

    def to_json(self) -> dict[str, Any]:
        """Write as a plain dict."""
        return {**asdict(self), "helps": self.helps}


def judge(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], classes: Classes) -> dict[str, Judged]:
    """Compare both for each class.

    Args:
        pairs: of each scan the predicted class indices (I, J, K), or (I, J, K, T) in time, and the true ones.
        classes: what the indices mean.

    Returns:
        By the names of the classes; without those that no scan has.
    """
    owned = [[int(number) for number in np.flatnonzero(members)] for members in classes.members]
    dice: list[list[tuple[float, float]]] = [[] for _ in owned]
    for predicted, truth in pairs:
        plain = _dice(predicted, truth, classes)
        for number, values in enumerate(owned):
            alone = _dice(keep_largest(predicted, [values]), truth, classes)[number]
            if plain[number] is not None and alone is not None:
                dice[number].append((plain[number], alone))
    return {name: _judged(values) for name, values in zip(classes.names, dice, strict=True) if values}


def _dice(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], classes: Classes) -> list[Any]:
    """That of each class, None where it is neither shown nor predicted."""
    counts = scores.count(predicted, truth, classes.members)
    return [Counts(*numbers).dice for numbers in counts.T.tolist()]


def _judged(values: Sequence[tuple[float, float]]) -> Judged:
    plain, alone = np.array(values).T
    return Judged(
        len(values), float(plain.mean()), float(alone.mean()), int((alone > plain).sum()), int((alone < plain).sum())
    )


def remark(repetitions: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """What the repetitions of an arm say together, in words; "" if no class gains in more than half of them."""
    chosen = by_most([[name for name, judged in one.items() if judged["helps"]] for one in repetitions])
    if not chosen:
        return ""
    gains = ", ".join(
        f"{name} {_mean(repetitions, name, 'dice'):.3f} to {_mean(repetitions, name, 'largest'):.3f}" for name in chosen
    )
    return (
        f"on the validation scans the largest part alone has the higher Dice ({gains}): predict with "
        f"--largest-component auto"
    )


def _mean(repetitions: Sequence[Mapping[str, Mapping[str, Any]]], name: str, key: str) -> float:
    return float(np.mean([one[name][key] for one in repetitions if name in one]))


def by_most(chosen: Sequence[Sequence[str]]) -> list[str]:
    """The classes that more than half of the models chose, in the order in which they come."""
    names = dict.fromkeys(name for one in chosen for name in one)
    return [name for name in names if 2 * sum(name in one for one in chosen) > len(chosen)]
