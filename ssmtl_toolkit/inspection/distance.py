"""Which t suits the scans: the rule behind `t=auto` and the proposal of `ssmtl data info`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from ssmtl_toolkit.text import rounded

ENOUGH = 0.66
"""Share of the slices that should have a partner."""
ALIKE = 0.4
"""Least correlation of pairs: below it the best scaled copy explains less than a sixth of a slice's variance."""
FARTHEST_MM = 20.0
"""Farthest that partners should be: beyond it what is alike is the outline of the body."""
FARTHEST_MS = 300.0
"""The same in time: about as long as the heart contracts; later it is on its way back."""


class Measured(Protocol):
    """What the rule asks of the data; `alike.Stacks` has it."""

    @property
    def spacing(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def even(self) -> bool: ...
    def share(self, t: int | str) -> float: ...
    def apart(self, t: int | str) -> tuple[float, float]: ...
    def correlation(self, t: int | str) -> float | None: ...


@dataclass(frozen=True)
class ProposedDistance:
    """A distance, in slices, mm or ms as an option `t` takes it, and why it is not larger."""

    t: int | str
    why: str


def proposed_distance(data: Measured) -> ProposedDistance:
    """Choose the largest t at which pairs are enough, alike and near; the smallest possible if there is none.

    It is a number of slices, or, where scans differ in the distance between slices, a length in mm, in time in ms.
    """
    suitable, why = suitable_distances(data)
    return ProposedDistance(suitable[-1], why)


def suitable_distances(data: Measured) -> tuple[list[int | str], str]:
    """Return the distances that suit, at least the smallest possible, and why the next one does not."""
    suitable: list[int | str] = []
    for t in _candidates(data):
        if why := _too_far(data, t):
            return suitable or [t], why
        suitable.append(t)
    return suitable or [1], "no scan has slices farther apart"


def _candidates(data: Measured) -> Iterator[int | str]:
    for number in count(1):
        t: int | str = number if data.even else f"{round(number * data.spacing, 1):g}{data.unit}"
        if data.share(t) <= 0:
            return
        yield t


def _too_far(data: Measured, t: int | str) -> str:
    """Why pairs at this distance do not suit, "" if they do."""
    if (share := data.share(t)) < ENOUGH:
        return f"at t={t} only {100 * share:.3g} % of the slices have a partner, two thirds should"
    correlation = data.correlation(t)
    if correlation is not None and correlation < ALIKE:
        return f"at t={t} pairs have little in common (correlation {correlation:.2f})"
    farthest = max(data.apart(t))
    if farthest > (FARTHEST_MM if data.unit == "mm" else FARTHEST_MS) * 1.0001:
        return f"at t={t} pairs are {rounded(farthest)} {data.unit} apart"
    return ""
