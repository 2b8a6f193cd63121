"""What a metric compares: prediction and truth of one class in one scan, or of one slice; no torch is needed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]
Box = tuple[slice, ...]

_NEAR = 4  # voxels up to which the other surface is looked for by steps


@dataclass(frozen=True)
class Counts:
    """Voxels of one class: true positives, false positives, false negatives. What nobody annotated is in none.

    Attributes:
        tp, fp, fn: the three numbers.
    """

    tp: int
    fp: int
    fn: int

    @property
    def absent(self) -> bool:
        """Whether the class is in neither truth nor prediction."""
        return not (self.tp or self.fp or self.fn)

    @property
    def penalised(self) -> bool:
        """Whether the class is in only one of truth and prediction."""
        return not self.tp and bool(self.fp) != bool(self.fn)

    @property
    def iou(self) -> float | None:
        """Intersection over union; None if the class is absent."""
        return None if self.absent else self.tp / (self.tp + self.fp + self.fn)

    @property
    def dice(self) -> float | None:
        """Twice the intersection over the sum of both sizes; None if the class is absent."""
        return None if self.absent else 2 * self.tp / (2 * self.tp + self.fp + self.fn)


class Comparison:
    """One class of a label map in one scan, or one slice of an image: what was predicted beside the truth.

    What takes time is computed when it is first read, and once for all metrics. All but `predicted`, `truth` and
    `spacing` is for label maps only. In the masks, voxels that nobody annotated are background. All metrics get the
    same arrays, which cannot be written into: work on a copy. `torch.tensor` makes one, `torch.from_numpy` warns.
    """

    def __init__(self, predicted: NDArray[Any], truth: NDArray[Any], spacing: Sequence[float] = ()) -> None:
        """Compare two arrays of one shape.

        Args:
            predicted: a mask (I, J, K), bool; or a slice (C, H, W), float32.
            truth: the same.
            spacing: mm between voxels along I, J and K; empty for a slice.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"the prediction has shape {predicted.shape}, the truth {truth.shape}")
        self._predicted, self._truth = read_only(predicted), read_only(truth)
        self.spacing = tuple(spacing)

    @property
    def predicted(self) -> NDArray[Any]:
        """The mask of the class (I, J, K), bool; or the slice (C, H, W), float32."""
        return self._predicted

    @property
    def truth(self) -> NDArray[Any]:
        """The same of the truth."""
        return self._truth

    @cached_property
    def counts(self) -> Counts:
        """True and false positives and false negatives among the annotated voxels."""
        both = int(np.count_nonzero(self.predicted & self.truth))
        predicted, truth = (int(np.count_nonzero(mask)) for mask in (self.predicted, self.truth))
        return Counts(both, predicted - both, truth - both)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of both arrays."""
        return self.truth.shape

    @property
    def diagonal(self) -> float:
        """The largest distance in the scan, that of opposite corners, in mm."""
        return math.hypot(*((n - 1) * mm for n, mm in zip(self.shape, self.spacing, strict=True)))

    @cached_property
    def box(self) -> Box:
        """The smallest box that holds both masks; one of them at least must not be empty."""
        from scipy.ndimage import find_objects  # type: ignore[attr-defined]

        (box,) = find_objects((self.predicted | self.truth).astype(np.uint8), 1)
        if box is None:
            raise ValueError("both masks are empty")
        return tuple(box)

    @cached_property
    def cropped(self) -> Masks:
        """Both masks, the prediction first, cut to `box`."""
        return self.predicted[self.box], self.truth[self.box]

    @cached_property
    def surfaces(self) -> Masks:
        """The surface voxels of both masks, the prediction's first, cut to `box`; by MONAI.

        What lies outside of the scan is background: a mask that reaches its border has a surface there.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MONAI's own imports
            from monai.metrics.utils import get_mask_edges
        predicted, truth = get_mask_edges(*self.cropped, crop=False)
        return predicted, truth

    @cached_property
    def distances(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Distances in mm from each surface voxel to the nearest one of the other mask, from the prediction's first.

        Raises:
            ValueError: one of the masks is empty; ask `counts.penalised` first.
        """
        if self.counts.absent or self.counts.penalised:
            raise ValueError("there is no distance to an empty mask; ask counts.penalised first")
        predicted, truth = self.surfaces
        return _nearest(predicted, truth, self.spacing), _nearest(truth, predicted, self.spacing)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, which cannot be written into by this way."""
    view = array.view()
    view.flags.writeable = False
    return view


def _nearest(surface: NDArray[np.bool_], other: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float32]:
    """Distances in mm from each voxel of a surface to the nearest one of another, in the order of the voxels.

    Predictions are near the truth: looking at the next voxels, nearest first, finds nearly all, and a tree the rest.
    """
    steps, lengths = _around(spacing)
    there, here = np.pad(other, _NEAR), np.pad(surface, _NEAR)  # so that no step leaves them, in one dimension either
    jumps = steps @ (np.array(there.strides) // there.itemsize)
    voxels, there = np.flatnonzero(here), there.reshape(-1)
    distances, missing = np.zeros(len(voxels), np.float32), np.arange(len(voxels))
    for jump, length in zip(jumps.tolist(), lengths.tolist(), strict=True):
        found = there.take(voxels + jump)
        distances[missing[found]] = length
        voxels, missing = voxels[~found], missing[~found]
        if not len(missing):
            return distances
    distances[missing] = _by_tree(np.stack(np.unravel_index(voxels, here.shape), axis=1) - _NEAR, other, spacing)
    return distances


def _around(spacing: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The steps in voxels to all that are within `_NEAR` times the least spacing, nearest first, and their lengths."""
    steps = np.indices((2 * _NEAR + 1,) * len(spacing)).reshape(len(spacing), -1).T - _NEAR
    lengths = np.sqrt(np.square(steps * np.asarray(spacing, float)).sum(axis=1))
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= _NEAR * min(spacing)]
    return steps[order], lengths[order]


def _by_tree(voxels: NDArray[np.int64], other: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Distances in mm from voxels (n, 3) to the nearest one of a surface, however far it is."""
    from scipy.spatial import KDTree

    tree: Any = KDTree
    points = tree(np.argwhere(other) * np.asarray(spacing, float), leafsize=32, balanced_tree=False)
    distances: NDArray[np.float64] = points.query(voxels * np.asarray(spacing, float))[0]
    return distances


class PooledComparison(Comparison):
    """One class in all test scans together, for metrics that are `pooled`: it has `counts` and nothing else."""

    def __init__(self, counts: Counts) -> None:
        """`counts`: over all annotated voxels of all scans."""
        super().__init__(np.zeros(0, bool), np.zeros(0, bool))
        self.counts = counts

    @property
    def predicted(self) -> NDArray[Any]:
        """Not known.

        Raises:
            ValueError: always.
        """
        raise ValueError("a pooled metric may read `counts` only; masks and spacing differ from scan to scan")

    @property
    def truth(self) -> NDArray[Any]:
        """Not known, as `predicted`."""
        return self.predicted
