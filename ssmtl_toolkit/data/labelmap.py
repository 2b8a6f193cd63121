"""Label maps that were taken for scans, known by their voxels: few whole values in large regions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.volume import Volume

# Measured on 295 scans (MRI, 4 CT) and 310 label maps, without the background and what a window has cut off: of the
# scans at most 0.24 of the neighbours are equal (8-bit heart MRI), of the maps with more than 8 values at least 0.82.
# A smooth MRI rounded to 10 levels comes to 0.60. Maps of thin structures go down to 0, and have few values.
_MOST_VALUES = 512
_FEW_VALUES = 8
_EQUAL_NEIGHBOURS = 0.7
_LANDMARKS = (64, 50)  # so many values at most, and so many voxels of one


def looks_like_labels(volume: Volume) -> str:
    """Say why the voxels are hardly those of a scan, as in "3 whole values"; "" where they may well be."""
    some = np.moveaxis(volume.array, volume.slice_axis, 0)[:: max(1, volume.array.shape[volume.slice_axis] // 8)]
    if len(_whole_values(some)[0]) == 0:  # a few slices tell most scans from label maps
        return ""
    different, counts = _whole_values(volume.array)
    if len(different) == 0:
        return ""
    equal = _equal_neighbours(
        volume.array, volume.slice_axis, {different[0], different[-1], different[counts.argmax()]}
    )
    most, each = _LANDMARKS
    landmarks = len(different) <= most and counts.sum() - counts.max() <= each * len(different)
    if len(different) > _FEW_VALUES and equal < _EQUAL_NEIGHBOURS and not landmarks:
        return ""
    where = " in single points" if landmarks else f" in regions ({100 * equal:.0f} % of neighbours are equal)"
    return f"{len(different)} whole values{where if len(different) > _FEW_VALUES else ''}"


def _whole_values(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The different values and how often each occurs; nothing where some are fractions, or there are very many."""
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        return np.empty(0), np.empty(0)
    if high - low < 1 << 22:
        occurring = np.bincount((array.astype(np.int64) - int(low)).ravel(order="K"))
        steps = np.flatnonzero(occurring)
        values, counts = steps + low, occurring[steps]
    else:  # too wide to count
        values, counts = np.unique(array, return_counts=True)
    return (values, counts) if len(values) <= _MOST_VALUES else (np.empty(0), np.empty(0))


def _equal_neighbours(array: NDArray[Any], slice_axis: int, flat: set[float]) -> float:
    """Which share of the neighbours within a slice has one value; those that are both among `flat` do not count."""
    is_flat = np.isin(array, list(flat))
    equal = pairs = 0
    for axis in {0, 1, 2} - {slice_axis}:
        along, level = np.moveaxis(array, axis, 0), np.moveaxis(is_flat, axis, 0)
        counted = ~(level[1:] & level[:-1])
        pairs += int(np.count_nonzero(counted))
        equal += int(np.count_nonzero((along[1:] == along[:-1]) & counted))
    return equal / max(pairs, 1)
