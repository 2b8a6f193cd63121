"""Label maps that were taken for scans, known by their voxels: few whole values in large regions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.volume import Volume

# Measured on 5 scans in nine forms each and 9 label maps: which share of its neighbours has a voxel's value, background
# skipped, as the median over the values, so that the few of padding and of a window's ends do not count. The maps come
# to 0.97 and more, the scans in 8 bit to 0.1 at most, smoothed to 64 levels to 0.5, of 10 levels to 0.7.
_MOST_VALUES = 512
_FEW_VALUES = 8
_EQUAL_NEIGHBOURS = 0.75
_EQUAL_IF_FEW = 0.25  # scans of counted decays come to 0.1
_SLICES = 32  # so many tell
_FRAMES = 4  # looked at of a scan in time
_AT_ONCE = 1 << 22  # voxels that are counted: each takes 16 bytes meanwhile


def looks_like_labels(volume: Volume) -> str:
    """Say why the voxels are hardly those of a scan, as in "3 whole values"; "" where they may well be.

    Of several channels all must look so, and the first one's reason is given.
    """
    reasons = []
    for array in volume.by_channel:
        reasons.append(_why(array, volume.slice_axis))
        if not reasons[-1]:
            return ""
    return reasons[0]


def _why(array: NDArray[Any], slice_axis: int) -> str:
    """The same of the voxels (I, J, K) or (I, J, K, T) of one channel."""
    slices = np.moveaxis(array, slice_axis, 0)
    if array.ndim == 4:  # in time; a few frames tell as much as all
        some = slices[..., :: max(1, array.shape[3] // _FRAMES)]
        slices = np.moveaxis(some, 3, 1).reshape(-1, *some.shape[1:3])
    if len(_whole_values(slices[:: max(1, len(slices) // 8)])[0]) == 0:  # a few slices tell most scans from label maps
        return ""
    different, _ = _whole_values(array)
    if len(different) == 0:
        return ""
    equal = _equal_neighbours(slices[:: max(1, len(slices) // _SLICES)])
    few = len(different) <= _FEW_VALUES
    if equal < (_EQUAL_IF_FEW if few else _EQUAL_NEIGHBOURS):
        return ""
    where = "" if few else f" in regions or points ({100 * equal:.0f} % of neighbours are equal)"
    return f"{len(different)} whole values{where}"


def _whole_values(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The different values and how often each occurs; nothing where some are fractions, or there are very many."""
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        return np.empty(0), np.empty(0)
    if high - low < 1 << 22:
        occurring = np.zeros(int(high - low) + 1, np.int64)
        step = max(1, _AT_ONCE // array[..., 0].size)
        for k in range(0, array.shape[-1], step):
            above = np.subtract(array[..., k : k + step], low, dtype=np.float64).astype(np.int64)
            occurring += np.bincount(above.ravel(order="K"), minlength=len(occurring))
        steps = np.flatnonzero(occurring)
        values, counts = steps + low, occurring[steps]
    else:  # too wide to count
        values, counts = np.unique(array, return_counts=True)
    return (values, counts) if len(values) <= _MOST_VALUES else (np.empty(0), np.empty(0))


def _equal_neighbours(slices: NDArray[Any]) -> float:
    """Which share of its neighbours within a slice has a voxel's value, as the median over the values.

    The background, and neighbours that are, do not count; a value of single points has all that it can have.
    """
    different, counts = _whole_values(slices)
    background = counts.argmax()
    equal, pairs = np.zeros(len(different)), np.zeros(len(different))
    for plane in slices:
        which = np.searchsorted(different, plane)
        for along in (which, which.T):
            counted = (along[1:] != background) & (along[:-1] != background)
            one, other = along[1:][counted], along[:-1][counted]
            equal += 2 * np.bincount(one[one == other], minlength=len(different))
            pairs += np.bincount(one, minlength=len(different)) + np.bincount(other, minlength=len(different))
    shares = np.divide(equal, pairs, out=np.ones(len(different)), where=pairs > 0)
    return float(np.median(np.delete(shares, background))) if len(different) > 1 else 1.0
