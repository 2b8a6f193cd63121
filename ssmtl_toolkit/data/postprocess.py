"""What may be done to predicted labels before they are written: smoothing along the slices, the largest parts alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_Index = TypeVar("_Index", bound=np.integer[Any])

_BLOCK = 1 << 26  # bytes smoothed at once
_DEVIATIONS = 4  # where the Gaussian is cut off


def smooth_slices(probabilities: NDArray[np.float32], sigma: float) -> NDArray[np.uint8]:
    """Smooth probabilities along the slices, in place, with a Gaussian cut off at four standard deviations.

    Beyond its ends a scan continues as its first and last slice. Memory is that of the result and of a block, even if
    the array lies on the disk; one in Fortran order, as `scratch_array` makes, is read and written only once.

    Args:
        probabilities: (S, H, W, classes).
        sigma: standard deviation, in slices.

    Returns:
        The index of the most probable class, (S, H, W).
    """
    number, height, width, classes = probabilities.shape
    index = np.empty((number, height, width), np.uint8)
    radius = min(round(_DEVIATIONS * sigma), _DEVIATIONS * number)  # a wider one sees nothing but repeated slices
    step = max(1, _BLOCK // (probabilities.itemsize * number * height * classes))
    for start in range(0, width, step):
        block = probabilities[:, :, start : start + step]
        if radius:
            block[:] = ndimage.gaussian_filter1d(  # type: ignore[attr-defined]
                block, sigma, axis=0, mode="nearest", radius=radius
            )
        index[:, :, start : start + step] = block.argmax(axis=-1)
    return index


def keep_largest(index: NDArray[_Index], classes: Collection[int] | None = None) -> NDArray[_Index]:
    """Keep of each class its largest connected part, in three dimensions, and make the rest background.

    Voxels that share a corner are connected. Of equally large parts the one that begins first in (I, J, K) order stays.

    Args:
        index: (I, J, K) integers; every value above 0 is a class.
        classes: the classes that this is done to; None: all.

    Returns:
        A new array.
    """
    kept = index.copy()
    for number, box in enumerate(ndimage.find_objects(index), 1):  # type: ignore[attr-defined]
        if box is not None and (classes is None or number in classes):
            kept[box][_lesser(index[box] == number)] = 0
    return kept


def _lesser(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what of `mask` is not in its largest part."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3), bool))  # type: ignore[attr-defined]
    sizes = np.zeros(count + 1, np.int64)
    for plane in parts:  # bincount makes a copy of 8 bytes for each voxel
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    sizes[0] = 0  # the background
    largest = np.flatnonzero(sizes == sizes.max())
    first = largest[0] if len(largest) == 1 else parts.flat[int(np.isin(parts, largest).argmax())]
    lesser: NDArray[np.bool_] = mask & (parts != first)
    return lesser
