"""Whether a fine-tuning was long enough, told by its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

FEW = 20
"""With fewer lines of metrics.jsonl there is no verdict."""
_MOST = 0.3
_SOME = 0.1
_HALF = 0.5


@dataclass(frozen=True)
class Convergence:
    """How a loss fell, of means over a tenth of the training each.

    With a rate that ends at 0 every loss is flat at the end, so that looking there alone would tell nothing.

    Attributes:
        fall: by which share it fell from the middle of the training to its end.
        left: what share of the loss at the start is left at the end.
    """

    fall: float
    left: float

    @classmethod
    def of(cls, losses: Sequence[float]) -> Convergence | None:
        """That of a training by its losses in order; None if they are too few, or not above 0."""
        tenth, middle = len(losses) // 10, len(losses) // 2
        if len(losses) < FEW or min(losses) <= 0:
            return None
        first, before, last = (
            fmean(part) for part in (losses[:tenth], losses[middle - tenth : middle], losses[-tenth:])
        )
        return cls((before - last) / before, last / first)

    @property
    def reached(self) -> bool:
        """Whether it fell by less than 30 % in the second half; by less than 10 % if over half of the loss is left."""
        return self.fall <= (_SOME if self.left > _HALF else _MOST)


def remark(trainings: Sequence[Convergence | None], steps: int) -> str:
    """What to say of trainings that have not converged; empty if all have."""
    far = [training.fall for training in trainings if training is not None and not training.reached]
    if not far:
        return ""
    which = "its loss" if len(trainings) == 1 else f"in {len(far)} of {len(trainings)} trainings the loss"
    by = f"{100 * max(far):.0f} %"
    return (
        f"not converged: {which} still fell by {by} in the second half; scores may rise with more than {steps} --steps"
    )
