"""Scores of label maps, class by class, and their summaries; no network and no torch is needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.classes import IGNORE, Classes
from ssmtl_toolkit.data.postprocess import enclosing
from ssmtl_toolkit.engine.metric import Box, Comparison, Counts, Masks, PooledComparison, read_only
from ssmtl_toolkit.evaluation.judging import Judge
from ssmtl_toolkit.evaluation.statistics import defined, mean, spread
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec

RULE = (
    "A class that is absent from truth and prediction of a scan has no score there: it is counted as undefined and is "
    "in no mean. A class that is absent from one of the two only has IoU, Dice and surface Dice 0, and as HD95 the "
    "largest distance there is in the scan, that of opposite corners; it is counted as penalised. Voxels that nobody "
    "annotated are in no count, and are background for HD95 and surface Dice."
)
"""The one rule for empty classes."""

_OTHERS = " Of a penalised class, other metrics give what they define."
_FIRST = {"iou", "dice"}  # in the files of scores they come before `penalised`, and without a count of it

_PIECE = 1 << 22  # voxels counted at once
_SQUARE = 32  # classes up to which the summary says which is taken for which


Values = tuple[float | None, ...]
"""A value for each class without background; None: undefined."""


@dataclass(frozen=True)
class ScanScores:
    """The scores of one scan.

    Attributes:
        name: the scan.
        classes: their names, without background.
        tp, fp, fn: voxels of each class.
        confusion: annotated voxels by the index of truth (rows) and of the prediction (columns), background first.
        voxel: the size of one, in mm³.
        values: of each metric, by its name.
        failures: metrics that failed, a line each.
    """

    name: str
    classes: tuple[str, ...]
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    voxel: float
    values: Mapping[str, Values]
    failures: tuple[str, ...] = ()

    @property
    def penalised(self) -> tuple[bool, ...]:
        """For each class, whether it is in only one of truth and prediction."""
        return tuple(Counts(*numbers).penalised for numbers in zip(self.tp, self.fp, self.fn, strict=True))

    @classmethod
    def of(cls, given: Mapping[str, Any], metrics: Iterable[MetricSpec]) -> ScanScores:
        """Read what `to_json` has written of these metrics."""
        names, rows = tuple(given["classes"]), list(given["classes"].values())
        tp, fp, fn = (tuple(row[key] for row in rows) for key in ("tp", "fp", "fn"))
        values = {metric.name: tuple(row[metric.name] for row in rows) for metric in metrics}
        return cls(given["name"], names, tp, fp, fn, (), given.get("voxel_mm3", 1.0), values)

    def mean(self, metric: str) -> float | None:
        """The mean over the classes of a metric, by its name; None if no class has a score."""
        return _mean(self.values[metric])

    def to_json(self) -> dict[str, Any]:
        """Write as plain dicts: for each class its counts and scores."""
        columns: dict[str, Sequence[Any]] = {"tp": self.tp, "fp": self.fp, "fn": self.fn}
        columns |= {key: values for key, values in self.values.items() if key in _FIRST}
        columns |= {"penalised": self.penalised}
        columns |= {key: values for key, values in self.values.items() if key not in _FIRST}
        classes = {name: {k: v[i] for k, v in columns.items()} for i, name in enumerate(self.classes)}
        return {"name": self.name, "voxel_mm3": self.voxel, "classes": classes}


def score_scan(
    name: str,
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    classes: Classes,
    spacing: Sequence[float],
    metrics: Sequence[MetricSpec],
) -> ScanScores:
    """Compare the class indices of one scan, (I, J, K) both, `IGNORE` in `truth` where nobody annotated.

    In time they are (I, J, K, T): each frame is compared by itself, as a volume. The counts are those of all frames,
    and a score is the mean over the frames where the class has one.

    Args:
        name: the scan.
        predicted: indices 0 (background) to len(classes), or to len(classes.cells).
        truth: the same, and `IGNORE`.
        classes: what the indices mean.
        spacing: mm between voxels along the three axes.
        metrics: what to score by.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"{name}: the prediction has shape {predicted.shape}, the truth {truth.shape}")
    if truth.ndim == 4:
        frames = zip(np.moveaxis(predicted, 3, 0), np.moveaxis(truth, 3, 0), strict=True)
        return _over_frames([score_scan(name, *frame, classes, spacing, metrics) for frame in frames])
    table = confusion(predicted, truth, classes.members.shape[1])
    tp, fp, fn = (tuple(row) for row in _counts(table, classes.members).tolist())
    maps, judge = _Maps(predicted, truth), Judge(metrics, name)
    rows = []
    for one, owned, counts in zip(classes.names, classes.members, map(Counts, tp, fp, fn), strict=True):
        nothing = dict.fromkeys((metric.name for metric in metrics), None)
        compared = _ClassComparison(maps, owned, counts, spacing)  # forgotten with all its masks before the next class
        rows.append(nothing if counts.absent else judge.scores(compared, f"class {one!r}"))
    values = {metric.name: tuple(row[metric.name] for row in rows) for metric in metrics}
    square, voxel = tuple(map(tuple, table.tolist())), math.prod(spacing)
    return ScanScores(name, classes.names, tp, fp, fn, square, voxel, values, tuple(judge.failures))


def _over_frames(frames: Sequence[ScanScores]) -> ScanScores:
    """The scores of a scan in time, of those of its frames."""
    first = frames[0]
    tp, fp, fn = (
        tuple(map(sum, zip(*counts, strict=True)))
        for counts in ([f.tp for f in frames], [f.fp for f in frames], [f.fn for f in frames])
    )
    values = {
        metric: tuple(map(mean, zip(*(frame.values[metric] for frame in frames), strict=True)))
        for metric in first.values
    }
    failures = tuple(dict.fromkeys(failure for frame in frames for failure in frame.failures))
    table = np.sum([frame.confusion for frame in frames], axis=0)
    return ScanScores(
        first.name, first.classes, tp, fp, fn, tuple(map(tuple, table.tolist())), first.voxel, values, failures
    )


@dataclass(frozen=True)
class _Maps:
    """The class indices of one scan."""

    predicted: NDArray[np.uint8]
    truth: NDArray[np.uint8]

    @cached_property
    def annotated(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Prediction and truth, background where nobody annotated."""
        ignored = self.truth == IGNORE
        if not ignored.any():
            return self.predicted, self.truth
        return np.where(ignored, np.uint8(0), self.predicted), np.where(ignored, np.uint8(0), self.truth)

    @cached_property
    def boxes(self) -> list[list[Box | None]]:
        """The box of each index above 0 in the prediction, and in the truth."""
        from scipy.ndimage import find_objects  # type: ignore[attr-defined]  # only metrics of surfaces ask for boxes

        return [list(find_objects(array)) for array in self.annotated]


class _ClassComparison(Comparison):
    """One class of a scan; its masks are made when a metric asks for them."""

    def __init__(self, maps: _Maps, owned: NDArray[np.bool_], counts: Counts, spacing: Sequence[float]) -> None:
        """`owned` (cells + 1) says which indices belong to the class."""
        super().__init__(maps.predicted, maps.truth, spacing)
        self._maps, self._numbers = maps, [int(i) for i in np.flatnonzero(owned)]
        self.counts = counts

    @cached_property
    def predicted(self) -> NDArray[Any]:
        return self._mask(self._maps.annotated[0])

    @cached_property
    def truth(self) -> NDArray[Any]:
        return self._mask(self._maps.annotated[1])

    def _mask(self, array: NDArray[np.uint8]) -> NDArray[Any]:
        first, *others = self._numbers
        return read_only(np.isin(array, self._numbers) if others else np.equal(array, first))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._maps.truth.shape

    @cached_property
    def box(self) -> Box:
        # found for all classes at once, while `Comparison` would search two masks of the whole scan
        known = [boxes[n - 1] for boxes in self._maps.boxes for n in self._numbers if n <= len(boxes)]
        return enclosing([box for box in known if box])

    @cached_property
    def cropped(self) -> Masks:
        predicted, truth = (self._mask(array[self.box]) for array in self._maps.annotated)
        return predicted, truth


def count(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], members: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count true positives, false positives and false negatives: (3, classes) int64, without background.

    `members` (classes, indices) says which indices belong to which class, as `Classes.members` does.
    """
    return _counts(confusion(predicted, truth, members.shape[1]), members)


def confusion(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    """Count how often each index of the truth (row) meets each of the prediction (column), where it is annotated."""
    ours, theirs = (np.ascontiguousarray(a).reshape(-1) for a in (predicted, truth))
    meetings = sum(_meetings(ours[i : i + _PIECE], theirs[i : i + _PIECE]) for i in range(0, len(ours), _PIECE))
    table = np.zeros((256, 256), np.int64) + meetings
    if table[size:IGNORE].any() or table[:, size:].any():
        raise ValueError(f"there are indices above the number of classes, {size - 1}")
    return table[:size, :size]


def _meetings(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each byte of the truth (row) meets each of the prediction (column)."""
    both = np.left_shift(truth, 8, dtype=np.uint16) | predicted
    return np.bincount(both, minlength=1 << 16).reshape(256, 256)


def _counts(square: NDArray[np.int64], members: NDArray[np.bool_]) -> NDArray[np.int64]:
    """True positives, false positives and false negatives of each class, (3, classes)."""
    owned = members.astype(np.int64)
    tp = ((owned @ square) * owned).sum(axis=1)
    return np.stack([tp, owned @ square.sum(axis=0) - tp, owned @ square.sum(axis=1) - tp])


def summarise(scans: Sequence[ScanScores], metrics: Sequence[MetricSpec]) -> dict[str, Any]:
    """Sum up the scores of scans with the same classes, ready for JSON.

    For each class: the pooled metrics (IoU, the paper's) and `dice_pooled` over all annotated voxels of all scans, and
    the spread over scans of every metric. `mean` is over the classes; its `iou` is the paper's mIoU, its others are
    means of the classes' means. `confusion` counts voxels by the index of truth (rows) and prediction (columns),
    background first, then the classes (of classes that overlap, the cells); None if there are many. A class that is
    nowhere, neither in truth nor predicted, has no score, is in no mean and is counted in `undefined_classes`.
    `not_scored`: where metrics failed, if they did.
    """
    names = scans[0].classes
    if any(scan.classes != names for scan in scans):
        raise ValueError("the scans have different classes")
    together = np.array([[scan.tp, scan.fp, scan.fn] for scan in scans], dtype=np.int64).sum(axis=0)
    pooled, judge = [Counts(*numbers) for numbers in together.T.tolist()], Judge(_pooled(metrics), "all scans")
    classes = {
        name: {**_over_voxels(counts, judge, name), "dice_pooled": counts.dice, **_over_scans(scans, i, metrics)}
        for i, (name, counts) in enumerate(zip(names, pooled, strict=True))
    }
    means = {metric.name: _mean(_of_class(values[metric.name]) for values in classes.values()) for metric in metrics}
    failures = [*(line for scan in scans for line in scan.failures), *judge.failures]
    return {
        "classes": classes,
        "mean": means,
        "confusion": _together([scan.confusion for scan in scans]) if len(names) <= _SQUARE else None,
        "undefined_classes": sum(counts.absent for counts in pooled),
        "scans": [scan.to_json() for scan in scans],
        "rule": RULE + ("" if all(map(_is_bundled, metrics)) else _OTHERS),
        **({"not_scored": failures} if failures else {}),
    }


def _together(tables: Sequence[tuple[tuple[int, ...], ...]]) -> list[list[int]] | None:
    """The sum of tables of confusion; None if one is not known, as of scores that were read from a file."""
    return np.sum(tables, axis=0).tolist() if all(tables) else None


def _pooled(metrics: Iterable[MetricSpec]) -> list[MetricSpec]:
    return [metric for metric in metrics if metric.pooled]


def _is_bundled(metric: MetricSpec) -> bool:
    return bool(registry().origin(metric)["distribution"] == OURS)


def _over_voxels(counts: Counts, judge: Judge, name: str) -> Mapping[str, float | None]:
    """The pooled metrics of one class."""
    if counts.absent:
        return dict.fromkeys((metric.name for metric in judge.metrics), None)
    return judge.scores(PooledComparison(counts), f"class {name!r}")


def _of_class(value: Any) -> float | None:
    """A class's value: pooled, or its mean over scans."""
    number: float | None = value["mean"] if isinstance(value, dict) else value
    return number


def _over_scans(scans: Sequence[ScanScores], i: int, metrics: Iterable[MetricSpec]) -> dict[str, Any]:
    """What the summary says of class number `i` over scans."""
    summaries = {}
    for metric in metrics:
        key = f"{metric.name}_per_scan" if metric.pooled else metric.name
        values = [scan.values[metric.name][i] for scan in scans]
        summaries[key] = {**spread(values), "mean": _mean(values), "undefined": len(values) - len(defined(values))}
        if metric.name not in _FIRST:
            summaries[key]["penalised"] = sum(scan.penalised[i] for scan in scans)
    return summaries


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the defined values, rounded once, so that it does not depend on the order of scans and classes."""
    numbers = defined(values)
    return math.fsum(numbers) / len(numbers) if numbers else None
