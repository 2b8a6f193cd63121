"""Whether a score orders some things as the truth does: Kendall's tau-b, and how sure one can be of it.

The interval is that of Fieller, Hartley and Pearson (Biometrika 44, 1957): atanh(tau) has a variance of about
0.437 / (n - 4). It takes the n things as drawn independently from many. docs/decisions/031-affinity.md has its
coverage, and why it is no bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_MIXES = 6
"""Fewer things than this give no interval: it would hold nearly everything."""

_VARIANCE = 0.437


def agreement(scores: Sequence[float | None], truth: Sequence[float | None]) -> dict[str, Any]:
    """Tau-b of the pairs of which both are known, its 95 % interval, and how many there are.

    `tau` is None where it is not defined: with fewer than two, or if all scores or all true values are equal.
    """
    known = [(s, t) for s, t in zip(scores, truth, strict=True) if s is not None and t is not None]
    tau = tau_b([s for s, _ in known], [t for _, t in known])
    return {"tau": tau, "ci95": None if tau is None else interval(tau, len(known)), "n": len(known)}


def tau_b(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b, which counts pairs that are tied in one of them as neither; None where it is not defined."""
    a, b = (np.sign(np.subtract.outer(values, values)) for values in (np.array(one), np.array(other)))
    untied = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / untied if untied else None


def interval(tau: float, number: int) -> list[float] | None:
    """The 95 % interval of a tau of so many; None of too few."""
    if number < LEAST_MIXES:
        return None
    most = 1 - 2 / (number * (number - 1))  # half a pair below 1, whose atanh is infinite
    middle, half = math.atanh(max(-most, min(most, tau))), 1.96 * math.sqrt(_VARIANCE / (number - 4))
    return [math.tanh(middle - half), math.tanh(middle + half)]
