"""What the voxels of one scan are like: values, blank slices, whether they are labels, and how alike slices are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssmtl_toolkit.data.labelmap import looks_like_labels
from ssmtl_toolkit.data.slicing import Cut
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.inspection.alike import products_of

_NEARLY = 0.02  # of the scan's own deviation: a slice that varies less is nearly blank
_SAMPLE = 1 << 20  # voxels that percentiles are computed from


@dataclass(frozen=True)
class Look:
    """What was seen in the voxels of a scan.

    Attributes:
        low, high: the least and the greatest value.
        usual: the 1st and the 99th percentile.
        whole: whether all values are whole numbers.
        digest: of values and shape; equal for equal voxels, whatever the file.
        blank, nearly_blank: how many slices have one value, and how many hardly vary.
        like_labels: why the voxels look like a label map, "" if they do not.
        replaced: how many were NaN or infinite.
        products: as `alike.products_of`.
    """

    low: float
    high: float
    usual: tuple[float, float]
    whole: bool
    digest: str
    blank: int
    nearly_blank: int
    like_labels: str
    replaced: int
    products: NDArray[np.float64]

    @property
    def one_value(self) -> bool:
        """Whether all voxels have one value."""
        return self.low == self.high


def look_at(volume: Volume, axis: Cut, size: int) -> Look:
    """Look at all voxels of a scan; slices are compared at `size` x `size` pixels, as a run would see them."""
    array, stack = volume.array, Stack.of(volume, axis)
    sample = array.ravel(order="K")[:: max(1, array.size // _SAMPLE)]
    low, high = np.percentile(sample, (1, 99)).tolist()
    resized, deviations = _resized(stack.slices, size)
    overall = float(np.std(sample, dtype=np.float64))
    blank = (deviations == 0).all(axis=1)
    nearly = (deviations < _NEARLY * overall).all(axis=1) & ~blank
    return Look(
        low=float(array.min()),
        high=float(array.max()),
        usual=(low, high),
        whole=array.dtype.kind in "iub" or bool((sample == np.rint(sample)).all()),
        digest=volume.digest,
        blank=int(blank.sum()),
        nearly_blank=int(nearly.sum()),
        like_labels=looks_like_labels(volume),
        replaced=volume.replaced,
        products=products_of(resized, stack.spacing[0], stack.frames),
    )


def _resized(slices: NDArray[Any], size: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Resize slices (S, C, H, W) to (S, C, size, size); also their deviations (S, C) before that, 0 for one value."""
    count, channels = slices.shape[:2]
    resized = np.zeros((count, channels, size, size), np.float32)
    deviations = np.zeros((count, channels))
    for s in range(count):
        for c in range(channels):
            plane = np.ascontiguousarray(slices[s, c], np.float32)
            if plane.min() < plane.max():
                deviations[s, c] = plane.std(dtype=np.float64)
                resized[s, c] = np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))
    return resized, deviations
