"""One mask file per structure, as TotalSegmentator writes them, joined to the label map of a scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.grid import check_grid, turned
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Mask
from ssmtl_toolkit.text import listed, printable

_SHOWN = 5


def join_masks(masks: Sequence[Mask], read: Callable[[Path], Volume]) -> Volume:
    """Return the label map of these masks: a voxel in several of them belongs to the smallest structure.

    A tumour within its organ, or a vertebra in a mask of all bones, would disappear otherwise. Of two of equal size the
    first counts. What overlaps, and which masks are missing, is noted.

    Raises:
        DataError: there is no mask, one has several values, or its grid is not that of the others.
    """
    given = [(mask, mask.path) for mask in masks if mask.path is not None]
    if not given:
        raise DataError("has no mask of any structure")
    joined: _Joined | None = None
    for mask, path in given:
        volume = read(path)
        if joined is None:
            joined = _Joined(volume)
        joined.add(mask, volume, printable(path))
    assert joined is not None
    return joined.volume([mask.name for mask in masks if mask.path is None])


class _Joined:
    """The label map so far, on the grid of the first mask; voxels hold the number of their mask, from 1."""

    def __init__(self, first: Volume) -> None:
        self._first = first
        self._numbers: NDArray[np.uint16] = np.zeros(first.sizes, np.uint16)
        self._masks: list[Mask] = []
        self._sizes: list[int] = []
        self._shared: Counter[tuple[str, str]] = Counter()
        self._notes: list[str] = []

    def add(self, mask: Mask, volume: Volume, where: str) -> None:
        """Put a mask over what is there, but not over smaller structures."""
        volume = turned(volume, self._first)
        moved = check_grid(self._first, volume, where, reference="the scan's first mask")
        self._notes += [f"mask of {mask.name}: {note}" for note in (*volume.notes, *([moved] if moved else []))]
        inside = _inside(volume, where)
        size = int(np.count_nonzero(inside))
        before = self._numbers[inside]
        wins = before == 0
        for number in np.unique(before[before != 0]).tolist():
            shared = before == number
            self._shared[self._masks[number - 1].name, mask.name] += int(np.count_nonzero(shared))
            if size < self._sizes[number - 1]:
                wins |= shared
        self._masks.append(mask)
        self._sizes.append(size)
        self._numbers[inside] = np.where(wins, len(self._masks), before)

    def volume(self, missing: Sequence[str]) -> Volume:
        """Return the label map with its notes."""
        notes = list(self._notes)
        if self._shared:
            pairs = [f"{a} and {b} {count}" for (a, b), count in self._shared.most_common()]
            number = sum(self._shared.values())
            notes.append(f"masks overlap in {number} voxels ({listed(pairs, _SHOWN)}); the smaller structure has them")
        if missing:
            notes.append(f"has no mask of {listed(map(printable, missing), _SHOWN)}, which other scans have")
        values = [0, *(mask.value for mask in self._masks)]
        kind = np.uint8 if min(values) >= 0 and max(values) < 1 << 8 else np.int32
        return replace(
            self._first, array=np.array(values, kind)[self._numbers], notes=tuple(notes), replaced=0, header=None
        )


def _inside(volume: Volume, where: str) -> NDArray[np.bool_]:
    """Return which voxels a mask covers: all that are not 0, which must have one value."""
    if volume.channels > 1:
        raise DataError(f"{where}: has {volume.channels} channels, a mask has one")
    array = volume.by_channel[0]
    inside: NDArray[np.bool_] = array != 0
    values = np.unique(array[inside])
    if len(values) > 1 or volume.replaced:
        shown = listed((f"{value:g}" for value in values), _SHOWN)
        raise DataError(
            f"{where}: has the values {shown}; the mask of one structure has a single value beside 0: give a map of "
            f"several labels as the label of a manifest (.csv)"
        )
    return inside
