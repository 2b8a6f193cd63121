"""Voxels as a file stores them, made into those of a `Volume`: scaled, at most 32 bits wide, finite; for any reader."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.memory import NARROWED
from ssmtl_toolkit.data.source import FileError, SeveralVolumesError


def volume_index(volumes: int, volume: int | None) -> int:
    """Return which of `volumes` 3-D volumes of a file is meant by --volume `volume`.

    Raises:
        SeveralVolumesError: it has several and none was chosen.
        FileError: one was chosen that is not there.
    """
    if volumes == 1:
        return 0
    if volume is None:
        problem = (
            f"is 4-D with {volumes} volumes; give --volume i, 0 to {volumes - 1}, or all: as channels, or --axis time"
        )
        raise SeveralVolumesError(problem, volumes)
    if not 0 <= volume < volumes:
        raise FileError(f"has no volume {volume}; give --volume 0 to {volumes - 1}")
    return volume


def sanitise_voxels(
    raw: NDArray[Any], notes: list[str], scaling: tuple[float, float] = (1.0, 0.0)
) -> tuple[NDArray[Any], int]:
    """Scale by slope and intercept, narrow to 32 bits, replace NaN and infinity by the smallest finite value.

    Args:
        raw: voxels (I, J, K) of any real type and byte order; they may be changed.
        notes: gets what was odd.
        scaling: slope and intercept, both finite.

    Returns:
        The voxels, at most 32 bits wide; scaled ones are float32. And how many were replaced.

    Raises:
        FileError: no voxel is finite, or scaled ones are too large for float32.
    """
    with np.errstate(all="ignore"):  # overflow and NaN are looked for, not warned of
        if not raw.dtype.isnative:
            raw = raw.byteswap(inplace=True).view(raw.dtype.newbyteorder("="))
        low, high, lost = _survey(raw)
        if lost == raw.size:
            raise FileError("has only NaN or infinite voxels: no image; export the scan again")
        array = _scale(raw, *scaling) if scaling != (1.0, 0.0) else _narrow(raw, int(low), int(high), notes)
        if array is not raw:
            low, _, lost_now = _survey(array)
            if lost_now > lost:
                raise FileError(f"has {lost_now - lost} values too large for float32; rescale the scan")
        if lost:
            notes.append(f"NaN or infinite voxels: {lost}, taken as the smallest value {low:g}")
            array[~np.isfinite(array)] = low
    return array, lost


def _survey(array: NDArray[Any]) -> tuple[Any, Any, int]:
    """Return the smallest and largest finite value, and how many are not finite."""
    low, high = array.min(), array.max()  # NaN spreads to both: with finite ends all is finite
    if np.isfinite(low) and np.isfinite(high):
        return low, high, 0
    finite = np.isfinite(array)
    lost = array.size - int(np.count_nonzero(finite))
    if lost == array.size:
        return low, high, lost
    return array.min(where=finite, initial=np.inf), array.max(where=finite, initial=-np.inf), lost


def _scale(raw: NDArray[Any], slope: float, inter: float) -> NDArray[np.float32]:
    """Compute `raw * slope + inter` in float64, rounded once; slice by slice to save memory."""
    array = np.empty(raw.shape, np.float32, order="F")
    for k in range(raw.shape[2]):
        array[..., k] = raw[..., k] * np.float64(slope) + inter
    return array


def _narrow(raw: NDArray[Any], low: int, high: int, notes: list[str]) -> NDArray[Any]:
    """Make int32 or float32 of the types that are wider, and of uint32."""
    if raw.dtype.name not in NARROWED:
        return raw
    if raw.dtype.kind == "f":
        return raw.astype(np.float32)
    if low >= -(2**31) and high < 2**31:
        return raw.astype(np.int32)
    notes.append(f"its {raw.dtype.name} voxels go up to {high} and are rounded to float32")
    return raw.astype(np.float32)
