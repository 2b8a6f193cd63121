"""How alike slices of a stack are that lie t apart, and what copying one for the other costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.distance import slices_of

_FARTHEST = {"mm": 40.0, "ms": 600.0}
_FEWEST, _MOST = 15, 200  # slices: how far pairs are looked at, whatever lies between them


@dataclass(frozen=True)
class Errors:
    """Mean squared errors, on slices of unit variance, of answers that need no learning.

    As `engine.baselines.trivial_answers`, with one best factor for all pairs instead of one for each batch.
    """

    copy: float
    blank: float
    scaled_copy: float

    @property
    def best(self) -> str:
        """The name of the least of them."""
        return min(asdict(self).items(), key=lambda item: item[1])[0]


@dataclass(frozen=True)
class StackOfSlices:
    """The slices of one scan: how many, the mm between them, and the products of pairs of them, if these were computed.

    `products` is (C, T, 4): for each channel and t = 1 … T the number of pairs, and the means over pixels of anchor
    squared, partner squared, and anchor times partner, summed over the pairs. In time there are several `sequences` of
    `count` frames each, with ms between them, 0 if unknown.
    """

    count: int
    spacing: float
    products: NDArray[np.float64] | None = None
    sequences: int = 1


def products_of(slices: NDArray[np.float32], spacing: float, frames: int | None = None) -> NDArray[np.float64]:
    """Return the products of all pairs of slices (S, C, H, W) that are up to 40 mm or 15 slices apart: (C, T, 4).

    In time each `frames` of them are a sequence, and pairs are up to 600 ms or 15 frames apart. Each slice is given
    zero mean and unit variance first; one of a single value counts as zeros.
    """
    if frames is None:
        return _products(slices, spacing, "mm")
    sequences = np.split(slices, len(slices) // frames)
    return np.asarray(np.sum([_products(one, spacing, "ms") for one in sequences], axis=0))


def _products(slices: NDArray[np.float32], spacing: float, unit: str) -> NDArray[np.float64]:
    count, channels = slices.shape[:2]
    reach = math.ceil(_FARTHEST[unit] / spacing) if spacing else _MOST
    farthest = min(max(_FEWEST, reach), _MOST, count - 1)
    products = np.zeros((channels, max(farthest, 0), 4))
    for c in range(channels):
        rows = _standardised(slices[:, c].reshape(count, -1))
        every = (rows @ rows.T).astype(np.float64) / rows.shape[1]
        own = every.diagonal()
        for t in range(1, farthest + 1):
            products[c, t - 1] = count - t, own[:-t].sum(), own[t:].sum(), every.diagonal(t).sum()
    return products


def _standardised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    constant = deviation <= 1e-6 * np.abs(rows).max(axis=1, keepdims=True)  # what is left of one value after rounding
    return np.where(constant, 0, centred / np.where(constant, 1, deviation)).astype(np.float32)


class Stacks:
    """The stacks of a data set; `unit` is that of their spacings, mm or ms."""

    def __init__(self, stacks: Sequence[StackOfSlices], unit: str = "mm") -> None:
        self.stacks, self.unit = tuple(stacks), unit
        self.total = sum(stack.count * stack.sequences for stack in stacks)

    @property
    def spacing(self) -> float:
        """The median distance between slices, in mm or ms."""
        return statistics.median(stack.spacing for stack in self.stacks)

    @property
    def even(self) -> bool:
        """Whether one number of slices is about the same distance in all scans, but for the odd one."""
        spacings = sorted(stack.spacing for stack in self.stacks)
        if not all(spacings):  # unknown in time: there is nothing but numbers
            return True
        tenth = len(spacings) // 10
        return spacings[-1 - tenth] <= 1.5 * spacings[tenth]

    def share(self, t: int | str) -> float:
        """Of all slices, those that have one t before them; as many have one behind them."""
        steps = ((stack, slices_of(t, stack.spacing)) for stack in self.stacks)
        pairs = sum(max(0, stack.count - step) * stack.sequences for stack, step in steps if step)
        return pairs / self.total if self.total else 0.0

    def apart(self, t: int | str) -> tuple[float, float]:
        """The least and the greatest distance of pairs, in mm or ms."""
        lengths = [
            step * stack.spacing for stack in self.stacks if 0 < (step := slices_of(t, stack.spacing)) < stack.count
        ]
        return (min(lengths), max(lengths)) if lengths else (0.0, 0.0)

    def errors(self, t: int | str) -> Errors | None:
        """What trivial answers cost; None if no products are known for this distance."""
        sums = self._sums(t)
        if sums is None:
            return None
        pairs, given, truth, product = sums.T
        scale = np.divide(product, given, out=np.zeros_like(product), where=given > 0)
        scaled = np.maximum(truth - scale * product, 0)
        values = ((column / pairs).mean() for column in (given + truth - 2 * product, truth, scaled))
        return Errors(*(float(value) for value in values))

    def correlation(self, t: int | str) -> float | None:
        """How alike pairs are: 1 if equal, 0 if they have nothing in common."""
        sums = self._sums(t)
        if sums is None:
            return None
        _, given, truth, product = sums.sum(axis=0)
        return float(product / math.sqrt(given * truth)) if given * truth > 0 else 0.0

    def _sums(self, t: int | str) -> NDArray[np.float64] | None:
        """The products (C, 4) at this distance, summed over the scans that have them."""
        found = []
        for stack in self.stacks:
            step = slices_of(t, stack.spacing)
            if stack.products is not None and 0 < step <= stack.products.shape[1]:
                found.append(stack.products[:, step - 1])
        alike = [one for one in found if one.shape == found[0].shape]
        return np.sum(alike, axis=0) if alike else None
