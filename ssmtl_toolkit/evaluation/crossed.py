"""How sure one can be of a difference when draws of labels and seeds of pre-training are crossed.

Every draw is trained on from every pre-training, so that values of a row share their labels and values of a column
their pre-training. The interval is that of the mean in the model x_ds = mu + a_d + b_s + e_ds with all three random:

    variance = var(row means) / D + var(column means) / S

with the degrees of freedom of Satterthwaite (Biometrics Bulletin 2, 1946). It counts the variance of e twice, which
keeps it above 0 and its coverage at or above the nominal one; docs/decisions/029-few-shot.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.evaluation.statistics import LEAST_REPETITIONS, Numbers

Matrix = NDArray[np.float64]
_GRID = 64  # points between a budget and the double of it


def rectangle(values: Sequence[Numbers]) -> tuple[list[int], list[int]]:
    """The rows and columns of a table without a gap: columns with any value, then rows that have all of those."""
    known = np.array([[value is not None and math.isfinite(value) for value in row] for row in values], dtype=bool)
    if not known.any():
        return [], []
    columns = np.flatnonzero(known.any(axis=0))
    return np.flatnonzero(known[:, columns].all(axis=1)).tolist(), columns.tolist()


def crossed(values: Matrix, better: int = 1) -> dict[str, Any]:
    """Mean, 95 % interval, and in how many draws it is better, of differences (draws, seeds) without gaps.

    With one seed the interval is Student's t over draws, and speaks for this one pre-training.

    Args:
        values: the differences.
        better: 1 if a higher score is better, else -1.
    """
    draws, seeds = values.shape
    rows = values.mean(axis=1) if values.size else np.empty(0)
    mean, half = (float(rows.mean()) if len(rows) else None), half_width(values)
    return {
        "mean": mean,
        "ci95": None if mean is None or half is None else [mean - float(half), mean + float(half)],
        "draws": draws,
        "seeds": seeds,
        "up": int((better * rows > 0).sum()),
    }


def half_width(values: Matrix) -> Matrix | None:
    """Half of the 95 % interval of the mean of each table (…, draws, seeds); None with fewer than four draws."""
    from scipy.special import stdtrit  # see statistics._t_interval

    *_, draws, seeds = values.shape
    if draws < LEAST_REPETITIONS or not seeds:
        return None
    of_draws = values.mean(axis=-1).var(axis=-1, ddof=1) / draws
    of_seeds = values.mean(axis=-2).var(axis=-1, ddof=1) / seeds if seeds > 1 else np.zeros_like(of_draws)
    variance = of_draws + of_seeds
    squares = of_draws**2 / (draws - 1) + of_seeds**2 / max(seeds - 1, 1)
    freedom = np.divide(variance**2, squares, out=np.ones_like(variance), where=squares > 0)
    half: Matrix = stdtrit(freedom, 0.975) * np.sqrt(variance)
    return half


def saved(ours: Matrix, scratch: Matrix, budgets: Sequence[float], at: int, better: int = 1) -> dict[str, Any]:
    """How many more labels the twin from scratch needs for the score that a method has with `budgets[at]` of them.

    The twin's curve is straight between budgets over the logarithm of their sizes. The interval holds the numbers of
    labels at which `crossed` cannot tell the twin, draw by draw, from the method; so it contains 0 if and only if the
    interval of the difference at `budgets[at]` does. A method that lies beyond the end of the curve where it stands
    itself saves more than 0, or less, of which the interval begins with 0 or ends with it.

    Args:
        ours: scores (draws, seeds) with `budgets[at]`.
        scratch: scores (draws, budgets) of the twin.
        budgets: their sizes, rising.
        at: which of them is the method's.
        better: 1 if a higher score is better, else -1.

    Returns:
        `labels`, negative if the method needs more than its twin; `beyond`, "above" or "below" if its score lies beyond
        the twin's curve, so that there are more or less than that, else ""; and `ci95`, in which None stands for an end
        beyond the curve.
    """
    sizes, start = _grid(budgets, at)
    curves = np.stack([np.interp(np.log2(sizes), np.log2(budgets), row) for row in better * scratch])
    gaps = better * float(ours.mean()) - curves.mean(axis=0)
    place, reached, beyond = _crossing(sizes, gaps, start)
    halves = half_width(better * ours - curves.T[:, :, None])
    labels = (float(sizes[place]) if reached is None else reached) - budgets[at]
    if halves is None:
        return {"labels": labels, "ci95": None, "beyond": beyond}
    alike = np.abs(gaps) <= halves
    first, last = _ends(alike, place, start)
    ends = [float(sizes[first]), float(sizes[last]), *([] if reached is None else [reached])]
    no_low = beyond == "below" or (first == 0 and alike[0])
    no_high = beyond == "above" or (last == len(sizes) - 1 and alike[-1])
    interval = [None if no_low else min(ends) - budgets[at], None if no_high else max(ends) - budgets[at]]
    return {"labels": labels, "ci95": interval, "beyond": beyond}


def _grid(budgets: Sequence[float], at: int) -> tuple[Matrix, int]:
    """Numbers of labels from the smallest to the largest budget, all budgets among them, and where `budgets[at]` is."""
    pieces = [np.geomspace(a, b, 1 + math.ceil(_GRID * math.log2(b / a)))[:-1] for a, b in pairwise(budgets)]
    sizes = np.concatenate([*pieces, np.array(budgets[-1:], dtype=float)])
    return sizes, sum(map(len, pieces[:at]))


def _crossing(sizes: Matrix, gaps: Matrix, start: int) -> tuple[int, float | None, str]:
    """Where the gap to the twin's curve closes, seen from `start`: to the right if the method is above, else to the
    left.

    Returns:
        The first point where it is closed, or the last one that there is; the number of labels, if it closes; and the
        side on which the method lies beyond the curve, if it does not.
    """
    step, sign = (1, 1.0) if gaps[start] >= 0 else (-1, -1.0)
    place = start
    while sign * gaps[place] > 0:
        if not 0 <= place + step < len(gaps):
            return place, None, "above" if sign > 0 else "below"
        place += step
    if place == start:
        return place, float(sizes[place]), ""
    share = gaps[place - step] / (gaps[place - step] - gaps[place])
    exact = float(sizes[place - step] * (sizes[place] / sizes[place - step]) ** share)  # straight over the logarithm
    return place, exact, ""


def _ends(alike: NDArray[np.bool_], place: int, start: int) -> tuple[int, int]:
    """The stretch of `alike` points around `place`, and around `start` if it is alike too."""
    around = [place, *([start] if alike[start] else [])]
    first, last = min(around), max(around)
    while first > 0 and alike[first - 1]:
        first -= 1
    while last < len(alike) - 1 and alike[last + 1]:
        last += 1
    return first, last
