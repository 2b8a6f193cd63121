"""Checks of metrics, on boxes in a small scan that are found more or less well, and on slices with more or less noise.

Masks are of voxels 0.8 x 1 x 2.5 mm, so that a metric that takes them for cubes is found out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.config.scoring import is_free
from ssmtl_toolkit.engine.metric import Comparison, Counts, PooledComparison
from ssmtl_toolkit.evaluation.judging import problem_of
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require

Array = NDArray[Any]

_SPACING = (0.8, 1.0, 2.5)
_SHAPE = (32, 28, 24)
_START, _STOP = (8, 7, 6), (16, 13, 12)
_MOST_DIGITS, _LONGEST = 6, 24
_WAY = "check higher_is_better"
_AXES = "take distances from comparison.distances, or use the spacing of each axis"
_CLOSE = 1e-3  # relative: libraries compute distances in float32


@check(MetricSpec, "its name, title, unit and digits fit a table")
def it_fits_a_table(bench: Bench) -> None:
    spec = _spec(bench)
    require(is_free(spec.name), f"files of scores call something else {spec.name!r}; rename it")
    for what in ("title", "unit", "mean_title"):
        text = getattr(spec, what)
        fits = isinstance(text, str) and text.isprintable() and len(text) <= _LONGEST
        require(fits, f"{what} is {text!r}; give a printable text of at most {_LONGEST} characters")
    digits = spec.digits
    require(digits in range(_MOST_DIGITS + 1), f"digits is {digits!r}; give a whole number from 0 to {_MOST_DIGITS}")
    require(spec.output in ("labels", "image"), f"output is {spec.output!r}; it scores 'labels' or 'image'")
    remark = spec.remark()
    require(isinstance(remark, str) and "\n" not in remark, f"remark() gives {remark!r}; give one line")


@check(MetricSpec, "its score is a number or None")
def score_is_a_number(bench: Bench) -> None:
    spec = _spec(bench)
    for predicted in _worse_and_worse(spec):
        problem = problem_of(spec.score(_compared(spec, predicted)), spec)
        require(not problem, f"{problem}; give float(…), and None only for what is undefined")


@check(MetricSpec, "no prediction scores better than the truth itself")
def truth_is_best(bench: Bench) -> None:
    spec = _spec(bench)
    truth, *others = _worse_and_worse(spec)
    best = _score(spec, truth)
    others += [_box(stop=(12, *_STOP[1:])), _box(start=(12, *_START[1:]))] if spec.output == "labels" else []
    for predicted in others:
        score = _score(spec, predicted)
        require(
            not _better(spec, score, best),
            f"the truth itself scores {best}, a worse prediction {score}; {_WAY}, and give no signed differences",
        )


@check(MetricSpec, "the worse a prediction, the worse its score")
def worse_is_worse(bench: Bench) -> None:
    spec = _spec(bench)
    scores = [_score(spec, predicted) for predicted in _worse_and_worse(spec)]
    found = f"predictions that are worse and worse score {', '.join(f'{score:g}' for score in scores)}"
    require(not any(_better(spec, after, before) for before, after in pairwise(scores)), f"{found}; {_WAY}")
    require(_better(spec, scores[0], scores[-1]), f"{found}: it tells nothing apart")


@check(
    MetricSpec,
    "a class in only one of truth and prediction scores no better than one that is found in part",
    applies=lambda spec: spec.output == "labels",
)
def empty_masks_are_penalised(bench: Bench) -> None:
    spec = _spec(bench)
    truth, nothing, half = _box(), np.zeros(_SHAPE, bool), _box(stop=(12, *_STOP[1:]))
    found = _score(spec, half, truth)
    for what, predicted, real in (("missed", nothing, truth), ("invented", truth, nothing)):
        score = spec.score(Comparison(predicted, real, _SPACING))
        if score is None or problem_of(score, spec):
            fail(f"a class that is {what} scores {score}; give the worst value, or it would be in no mean")
        require(
            not _better(spec, float(score), found),
            f"a class that is {what} scores {score}, one that is found by half {found}; where "
            f"comparison.counts.penalised, give the worst value",
        )


@check(MetricSpec, "scans and slices of any shape are scored, whatever the order of their axes")
def any_shape_is_scored(bench: Bench) -> None:
    spec = _spec(bench)
    predicted = _worse_and_worse(spec)[1]
    score = _score(spec, predicted)
    for order in ((2, 0, 1), (1, 2, 0)) if spec.output == "labels" else ((0, 2, 1),):
        turned = _turned(spec, predicted, order)
        require(_close(turned, score), f"with its axes in another order a scan scores {turned}, not {score}; {_AXES}")
    if spec.output == "image":
        two = _slices(channels=2)
        _number(spec, Comparison(two + _noise(two, 0.1), two))
        return
    for shape in ((9, 7, 1), (1, 1, 1), (3, 40, 2)):
        full = np.ones(shape, bool)
        _number(spec, Comparison(full, full, _SPACING))


@check(MetricSpec, "a score in mm doubles when voxels are twice as large", applies=lambda spec: spec.unit == "mm")
def millimetres_are_millimetres(bench: Bench) -> None:
    spec = _spec(bench)
    predicted = _worse_and_worse(spec)[-1]
    score, twice = (_score(spec, predicted, spacing=[factor * mm for mm in _SPACING]) for factor in (1, 2))
    require(_close(twice, 2 * score), f"at twice the spacing {score} becomes {twice}; {_AXES}")


@check(MetricSpec, "asked twice it gives the same, and leaves what it compares as it is")
def asking_changes_nothing(bench: Bench) -> None:
    spec = _spec(bench)
    compared = _compared(spec, _worse_and_worse(spec)[1])
    again = Comparison(compared.predicted.copy(), compared.truth.copy(), compared.spacing)
    try:
        first, second = spec.score(compared), spec.score(again)
    except ValueError as error:
        in_place = "read-only" in str(error)
        require(not in_place, "it changes the arrays in place, which other metrics get too; work on a copy")
        raise
    require(first == second, f"asked twice it gives {first} and {second}; keep no state, and draw nothing at random")


@check(MetricSpec, "over all scans together it needs nothing but counts", applies=lambda spec: spec.pooled)
def pooled_reads_counts(bench: Bench) -> None:
    spec = _spec(bench)
    require(spec.output == "labels", "it is pooled, but scores images, which have no counts")
    compared = _compared(spec, _worse_and_worse(spec)[1])
    counts = compared.counts
    together = _number(spec, PooledComparison(Counts(2 * counts.tp, 2 * counts.fp, 2 * counts.fn)))
    alone = _number(spec, compared)
    require(_close(together, alone), f"of two equal scans together it gives {together}, of one of them {alone}")


def _spec(bench: Bench) -> MetricSpec:
    assert isinstance(bench.spec, MetricSpec)
    return bench.spec


def _box(start: Sequence[int] = _START, stop: Sequence[int] = _STOP) -> Array:
    mask = np.zeros(_SHAPE, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def _slices(channels: int = 1) -> Array:
    """Smooth slices (C, H, W) of unit variance, as heads predict them."""
    rows, columns = np.meshgrid(np.linspace(0, 9, 40), np.linspace(0, 5, 33), indexing="ij")
    maps = np.stack([np.sin(rows + c) + np.cos(2 * columns) for c in range(channels)])
    return np.ascontiguousarray((maps / maps.std()).astype(np.float32))


def _noise(slices: Array, sigma: float) -> Array:
    return (sigma * np.random.default_rng(0).standard_normal(slices.shape)).astype(np.float32)


def _worse_and_worse(spec: MetricSpec) -> list[Array]:
    """The truth itself, and predictions that are further and further off: moved, too large, with an island."""
    if spec.output == "image":
        return [_slices() + _noise(_slices(), sigma) for sigma in (0, 0.1, 0.3, 1)]
    moved = [_box([a + k for a in _START], [b + 2 * k for b in _STOP]) for k in (0, 1, 3)]
    island = moved[-1].copy()
    island[28:30, 2:4, 1:3] = True
    return [*moved, island]


def _compared(spec: MetricSpec, predicted: Array) -> Comparison:
    return Comparison(predicted, _slices()) if spec.output == "image" else Comparison(predicted, _box(), _SPACING)


def _score(
    spec: MetricSpec, predicted: Array, truth: Array | None = None, spacing: Sequence[float] = _SPACING
) -> float:
    if spec.output == "image":
        return _number(spec, _compared(spec, predicted))
    return _number(spec, Comparison(predicted, _box() if truth is None else truth, spacing))


def _turned(spec: MetricSpec, predicted: Array, order: tuple[int, ...]) -> float:
    """Score a prediction with its axes in another order, truth and spacing alike."""
    compared = _compared(spec, predicted)
    ours, theirs = (np.ascontiguousarray(array.transpose(order)) for array in (predicted, compared.truth))
    spacing = [compared.spacing[axis] for axis in order] if compared.spacing else []
    return _number(spec, Comparison(ours, theirs, spacing))


def _number(spec: MetricSpec, compared: Comparison) -> float:
    score = spec.score(compared)
    if score is None or problem_of(score, spec):
        fail(f"of a prediction and a truth that both show something it gives {score!r}; give a number")
    return float(score)


def _better(spec: MetricSpec, one: float, other: float) -> bool:
    """Whether a score is better than another one by more than rounding."""
    return not _close(one, other) and (one > other) == spec.higher_is_better


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-6)
