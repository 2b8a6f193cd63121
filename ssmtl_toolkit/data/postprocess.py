"""What may be done to predicted labels before they are written: smoothing along the slices, the largest parts alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Index = TypeVar("_Index", bound=np.integer[Any])

_BLOCK = 1 << 26  # bytes smoothed at once
_DEVIATIONS = 4  # where the Gaussian is cut off


Decide = Callable[[NDArray[np.float32]], NDArray[np.uint8]]
"""From probabilities (…, classes) to class indices (…)."""


def _most_probable(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    index: NDArray[np.uint8] = probabilities.argmax(axis=-1).astype(np.uint8)
    return index


def smooth_slices(
    probabilities: NDArray[np.float32], sigma: float, decide: Decide = _most_probable
) -> NDArray[np.uint8]:
    """Smooth probabilities along the slices, in place, with a Gaussian cut off at four standard deviations.

    Beyond its ends a scan continues as its first and last slice. Memory is that of the result and of a block, even if
    the array lies on the disk; one in Fortran order, as `scratch_array` makes, is read and written only once.

    Args:
        probabilities: (S, H, W, classes).
        sigma: standard deviation, in slices.
        decide: says which class is the most probable; here the one with the largest probability.

    Returns:
        The index of the most probable class, (S, H, W).
    """
    from scipy.ndimage import gaussian_filter1d  # type: ignore[attr-defined]

    number, height, width, classes = probabilities.shape
    index = np.empty((number, height, width), np.uint8)
    radius = min(round(_DEVIATIONS * sigma), _DEVIATIONS * number)  # a wider one sees nothing but repeated slices
    step = max(1, _BLOCK // (probabilities.itemsize * number * height * classes))
    for start in range(0, width, step):
        block = probabilities[:, :, start : start + step]
        if radius:
            block[:] = gaussian_filter1d(block, sigma, axis=0, mode="nearest", radius=radius)
        index[:, :, start : start + step] = decide(block)
    return index


def keep_largest(
    index: NDArray[_Index], classes: Iterable[Collection[int]], without: Sequence[NDArray[Any]] = ()
) -> NDArray[_Index]:
    """Keep of each class its largest connected part, in three dimensions; what else is of it becomes background.

    Voxels that share a corner are connected. Of equally large parts the one that begins first in (I, J, K) order stays.

    Args:
        index: (I, J, K) integers, 0 is the background; in time (I, J, K, T), each frame by itself.
        classes: those that this is done to, each by the values that belong to it.
        without: for each of them, by value, what a voxel becomes that is no longer of this class: of classes that
            overlap it may still be of others.

    Returns:
        A new array.
    """
    from scipy.ndimage import find_objects  # type: ignore[attr-defined]

    if index.ndim == 4:
        every = list(classes)
        return np.stack([keep_largest(index[..., t], every, without) for t in range(index.shape[3])], axis=3)
    kept, boxes = index.copy(), find_objects(index)
    for numbers, others in zip_longest(classes, without):
        found = [boxes[number - 1] for number in numbers if number <= len(boxes) and boxes[number - 1]]
        if found:
            box = enclosing(found)
            lesser = _lesser(np.isin(index[box], list(numbers)))
            kept[box][lesser] = 0 if others is None else others[kept[box][lesser]]
    return kept


def enclosing(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that holds all of these."""
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _lesser(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what of `mask` is not in its largest part."""
    from scipy.ndimage import label  # type: ignore[attr-defined]

    parts, count = label(mask, structure=np.ones((3, 3, 3), bool))
    sizes = np.zeros(count + 1, np.int64)
    for plane in parts:  # bincount makes a copy of 8 bytes for each voxel
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    sizes[0] = 0  # the background
    largest = np.flatnonzero(sizes == sizes.max())
    first = largest[0] if len(largest) == 1 else parts.flat[int(np.isin(parts, largest).argmax())]
    lesser: NDArray[np.bool_] = mask & (parts != first)
    return lesser
