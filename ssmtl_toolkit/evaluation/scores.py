"""Scores of label maps: IoU, Dice, HD95, surface Dice, and their summaries; no network and no torch is needed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects  # type: ignore[attr-defined]

from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.evaluation.metrics import Metric, metrics_of
from ssmtl_toolkit.evaluation.statistics import defined, spread

RULE = (
    "A class that is absent from truth and prediction of a scan has no score there: it is counted as undefined and is "
    "in no mean. A class that is absent from one of the two only has IoU, Dice and surface Dice 0, and as HD95 the "
    "largest distance there is in the scan, that of opposite corners; it is counted as penalised. Voxels that nobody "
    "annotated are in no count, and are background for HD95 and surface Dice."
)
"""The one rule for empty classes."""

_PIECE = 1 << 22  # voxels counted at once


Values = tuple[float | None, ...]
"""A value for each class without background; None: undefined."""


@dataclass(frozen=True)
class ScanScores:
    """The scores of one scan.

    Attributes:
        name: the scan.
        classes: their names, without background.
        tp, fp, fn: voxels of each class.
        values: of each metric that was computed, by its key in `metrics.METRICS`.
    """

    name: str
    classes: tuple[str, ...]
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    values: Mapping[str, Values]

    @property
    def penalised(self) -> tuple[bool, ...]:
        """For each class, whether it is in only one of truth and prediction."""
        counts = zip(self.tp, self.fp, self.fn, strict=True)
        return tuple(tp == 0 and (fp > 0) != (fn > 0) for tp, fp, fn in counts)

    def to_json(self) -> dict[str, Any]:
        """Write as plain dicts: for each class its counts and scores."""
        always = {metric.key for metric in metrics_of("labels", surface=False)}
        columns: dict[str, Sequence[Any]] = {"tp": self.tp, "fp": self.fp, "fn": self.fn}
        columns |= {key: values for key, values in self.values.items() if key in always}
        columns |= {"penalised": self.penalised}
        columns |= {key: values for key, values in self.values.items() if key not in always}
        classes = {name: {k: v[i] for k, v in columns.items()} for i, name in enumerate(self.classes)}
        return {"name": self.name, "classes": classes}


def has_monai() -> bool:
    """Tell whether HD95, surface Dice and SSIM can be computed."""
    return find_spec("monai") is not None


def check_monai(what: str) -> None:
    """Refuse `what` (a plural) if MONAI is not installed.

    Raises:
        UsageError: naming the extra to install.
    """
    if not has_monai():
        raise UsageError(f"{what} need MONAI, which is not installed: pip install 'ssmtl-toolkit[metrics]'")


def score_scan(
    name: str,
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    classes: Sequence[str],
    spacing: Sequence[float],
    surface: bool,
    tolerance: float = 1.0,
) -> ScanScores:
    """Compare the class indices of one scan, (I, J, K) both, `IGNORE` in `truth` where nobody annotated.

    Args:
        name: the scan.
        predicted: indices 0 (background) to len(classes).
        truth: the same, and `IGNORE`.
        classes: the names of index 1 and up.
        spacing: mm between voxels along the three axes.
        surface: compute HD95 (95th percentile of the distances from surface voxel to nearest surface voxel, the
            larger of both ways) and surface Dice (Nikolov et al. 2018, arXiv:1809.04430; surface voxels are counted),
            with MONAI's functions.
        tolerance: mm, the distance up to which surface Dice takes a surface voxel as right.

    Raises:
        UsageError: `surface` without MONAI.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"{name}: the prediction has shape {predicted.shape}, the truth {truth.shape}")
    counts = count(predicted, truth, len(classes))
    tp, fp, fn = (tuple(row) for row in counts.tolist())
    iou, dice = overlap(counts)
    scores = ScanScores(name, tuple(classes), tp, fp, fn, {"iou": iou, "dice": dice})
    if not surface:
        return scores
    return replace(scores, values={**scores.values, **_surface_scores(scores, predicted, truth, spacing, tolerance)})


def count(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Count true positives, false positives and false negatives: (3, classes) int64, without background."""
    if int(predicted.max(initial=0)) > classes or int(truth.max(where=truth != IGNORE, initial=0)) > classes:
        raise ValueError(f"there are indices above the number of classes, {classes}")
    size = classes + 1
    ours, theirs = (np.ascontiguousarray(a).reshape(-1) for a in (predicted, truth))
    table = np.zeros(size * size, np.int64)  # how often each truth meets each prediction
    for start in range(0, len(ours), _PIECE):
        ours_now, theirs_now = (a[start : start + _PIECE].astype(np.int64) for a in (ours, theirs))
        annotated = theirs_now != IGNORE
        table += np.bincount((theirs_now * size + ours_now)[annotated], minlength=size * size)
    square = table.reshape(size, size)
    tp = square.diagonal()
    return np.stack([tp, square.sum(axis=0) - tp, square.sum(axis=1) - tp])[:, 1:]


def overlap(counts: NDArray[np.int64]) -> tuple[Values, Values]:
    """Return IoU and Dice of counts (3, classes); None for a class that is neither present nor predicted."""
    tp, fp, fn = counts
    return _ratios(tp, tp + fp + fn), _ratios(2 * tp, 2 * tp + fp + fn)


def _ratios(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> Values:
    return tuple(int(part) / int(whole) if whole else None for part, whole in zip(parts, wholes, strict=True))


def _surface_scores(
    scores: ScanScores,
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    spacing: Sequence[float],
    tolerance: float,
) -> dict[str, Values]:
    """HD95 and surface Dice of each class; MONAI is asked only for classes that are in both."""
    check_monai("surface scores")
    ignored = truth == IGNORE
    if ignored.any():
        predicted, truth = np.where(ignored, np.uint8(0), predicted), np.where(ignored, np.uint8(0), truth)
    diagonal = math.hypot(*((n - 1) * mm for n, mm in zip(truth.shape, spacing, strict=True)))
    boxes = [find_objects(a, len(scores.classes)) for a in (predicted, truth)]
    pairs: list[tuple[float | None, float | None]] = []
    for i, penalised in enumerate(scores.penalised):
        ours, theirs = (slices[i] for slices in boxes)
        if ours is None or theirs is None:
            pairs.append((diagonal, 0.0) if penalised else (None, None))
            continue
        # What lies outside of both is no surface, and MONAI takes what lies outside of the array as background.
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(ours, theirs, strict=True))
        pairs.append(_distances(predicted[box] == i + 1, truth[box] == i + 1, spacing, tolerance))
    return {"hd95": tuple(hd95 for hd95, _ in pairs), "surface_dice": tuple(dice for _, dice in pairs)}


def _distances(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> tuple[float, float]:
    """HD95 and surface Dice of two masks, neither of them empty, as `monai.metrics` defines them.

    `compute_hausdorff_distance` and `compute_surface_dice` would find the same distances twice.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI's own imports
        from monai.metrics.utils import get_mask_edges, get_surface_distance
    distances: Any = get_surface_distance
    ours, theirs = get_mask_edges(predicted, truth, crop=False)
    both = [distances(ours, theirs, spacing=list(spacing)), distances(theirs, ours, spacing=list(spacing))]
    near = np.concatenate(both) <= tolerance
    return max(float(np.quantile(one_way, 0.95)) for one_way in both), float(near.mean())


def summarise(scans: Sequence[ScanScores]) -> dict[str, Any]:
    """Sum up the scores of scans with the same classes, ready for JSON.

    For each class: `iou` and `dice_pooled` over all annotated voxels of all scans (the paper's IoU), and the spread
    over scans of IoU, Dice and, if they were computed, HD95 (mm) and surface Dice. `mean` is over the classes;
    its `iou` is the paper's mIoU, its others are means of the classes' means. A class that is nowhere, neither in truth
    nor predicted, has no score, is in no mean and is counted in `undefined_classes`.
    """
    names = scans[0].classes
    if any(scan.classes != names for scan in scans):
        raise ValueError("the scans have different classes")
    metrics = [m for m in metrics_of("labels") if all(m.key in scan.values for scan in scans)]
    pooled = np.array([[scan.tp, scan.fp, scan.fn] for scan in scans], dtype=np.int64).sum(axis=0)
    iou, dice = overlap(pooled)
    classes = {
        name: {"iou": iou[i], "dice_pooled": dice[i], **_over_scans(scans, i, metrics)} for i, name in enumerate(names)
    }
    means = {m.key: _mean(values[m.key]["mean"] for values in classes.values()) for m in metrics if not m.pooled}
    return {
        "classes": classes,
        "mean": {"iou": _mean(iou)} | means,
        "undefined_classes": iou.count(None),
        "scans": [scan.to_json() for scan in scans],
        "rule": RULE,
    }


def _over_scans(scans: Sequence[ScanScores], i: int, metrics: Iterable[Metric]) -> dict[str, Any]:
    """What the summary says of class number `i` over scans."""
    summaries = {}
    for metric in metrics:
        key = f"{metric.key}_per_scan" if metric.pooled else metric.key
        values = [scan.values[metric.key][i] for scan in scans]
        summaries[key] = {**spread(values), "mean": _mean(values), "undefined": len(values) - len(defined(values))}
        if metric.needs_monai:
            summaries[key]["penalised"] = sum(scan.penalised[i] for scan in scans)
    return summaries


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the defined values, rounded once, so that it does not depend on the order of scans and classes."""
    numbers = defined(values)
    return math.fsum(numbers) / len(numbers) if numbers else None
