"""What to say of slices that are unevenly spaced: how far apart they are, or where some are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.geometry import LPS_TO_RAS
from ssmtl_toolkit.data.volume import Stack
from ssmtl_toolkit.text import listed

_GAP = 1.5  # times the usual distance: a slice may be missing
_WHOLE = 0.1  # of the usual distance: how far from a multiple of it a gap is that missing slices leave
_UNEVEN = 0.05  # of the usual distance: deviations above it make parts with another distance
_PARTS, _IN_PART = 4, 3  # parts of a series with a slice distance each, and distances in one


def unevenness(affine: NDArray[np.float64], axis: int, positions: Sequence[float]) -> str:
    """Say in a line what is uneven: missing slices by their places, in mm in LPS, else all distances; "" if nothing.

    `affine`, `axis` and `positions` are those of a `Volume` or `Header`.
    """
    if not positions:
        return ""
    steps, gaps = np.diff(positions), gaps_of(positions)
    if not len(gaps):
        counts = Counter(f"{step:.3g}" for step in steps)
        shown = listed((f"{step} mm ({times} times)" for step, times in counts.most_common()), 4)
        return f"is unevenly spaced: its slices are {shown} apart"
    i, affine = int(gaps[0]), LPS_TO_RAS @ affine
    along = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
    before, behind = (_at(affine[:3, 3] + along * positions[k]) for k in (i, i + 1))
    more = f", and {len(gaps) - 1} more such gaps" if len(gaps) > 1 else ""
    usual = float(np.median(steps))
    return f"is missing slices: from {before} to {behind} mm it is {steps[i]:.4g} mm, elsewhere {usual:.4g} mm{more}"


def gaps_of(positions: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Behind which slices others are missing: the distance is a multiple of the usual one."""
    steps = np.diff(positions)
    usual = float(np.median(steps))
    wide = np.flatnonzero(steps > _GAP * usual)
    times = steps / usual
    whole = len(wide) and np.abs(times - np.rint(times))[wide].max() <= _WHOLE
    return wide if whole and not _spaced_in_parts(steps, usual) else wide[:0]


def _spaced_in_parts(steps: NDArray[np.float64], usual: float) -> bool:
    """Whether the distance changes between parts of the series, each evenly spaced, such as thin and thick slices."""
    changes = np.flatnonzero(np.abs(np.diff(steps)) > _UNEVEN * usual)
    lengths = np.diff([-1, *changes, len(steps) - 1])
    return len(lengths) <= _PARTS and bool(min(lengths) >= _IN_PART)


def to_make_even(stack: Stack) -> str:
    """The preparation that makes a stack of unevenly spaced slices, rows or columns even."""
    wanted = {"stack": stack.positions[:1], "spacing": stack.positions[1:]}
    options = {name: max(map(usual_distance, lines)) for name, lines in wanted.items() if any(lines)}
    return "resample:" + ",".join(f"{name}={mm:.3g}" for name, mm in options.items())


def usual_distance(positions: Sequence[float]) -> float:
    """The median distance of slices, mm; 0 for none."""
    return float(np.median(np.diff(positions))) if positions else 0.0


def _at(position: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{x:.6g}" for x in np.add(np.round(position, 6), 0.0)) + ")"
