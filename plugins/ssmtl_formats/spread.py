"""A series whose files lie in several folders below one: which these are, and whether they join to one scan."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from ssmtl_formats.headers import Frame, series_key
from ssmtl_formats.names import dicom_files, folders_below, is_dicom, may_be_dicom
from ssmtl_formats.series import Series, series_of, unfit
from ssmtl_formats.stacking import grid, stacked
from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import listed, printable

Key = tuple[str, int | None]  # what the images of a series have in common
Folders = tuple[tuple[Path, int], ...]  # with the times of their last change


def whole_series_of(folder: Path) -> tuple[Series, ...]:
    """The series in a folder, each with its images in folders below, and those that lie in several folders below.

    Raises:
        DataError: naming a file that is damaged.
    """
    joined = spread_below(folder)
    own = series_of(folder)
    there = {series.frames[0].series for series in own}
    return (
        *(replace(joined.get(one.frames[0].series, one), name=one.name) for one in own),
        *(series for key, series in joined.items() if key not in there),
    )


def spread(folders: Collection[Path]) -> str:
    """Name the folders of a series, below the one that holds them all."""
    above = os.path.commonpath(folders)
    names = [os.path.relpath(folder, above) if str(folder) != above else folder.name for folder in folders]
    return f"{len(folders)} folders ({listed(map(printable, names), 3)})"


def spread_below(folder: Path) -> dict[Key, Series]:
    """The series that are spread over a folder and those below it, but not over those below one of the latter alone."""
    where: dict[Key, list[tuple[Path, int]]] = {}
    for path in folders_below(folder):
        with contextlib.suppress(OSError):
            time = path.stat().st_mtime_ns
            for key in _keys(path, time):
                where.setdefault(key, []).append((path, time))
    branches = {key: {path.relative_to(folder).parts[:1] for path, _ in found} for key, found in where.items()}
    by_number = sorted(where.items(), key=lambda item: (item[0][1] is None, item[0][1] or 0, item[0][0]))
    joined = {key: _joined(tuple(found), key) for key, found in by_number if len(branches[key]) > 1}
    return {key: series for key, series in joined.items() if series is not None}


@functools.lru_cache(maxsize=1 << 14)
def _keys(folder: Path, time: int) -> frozenset[Key]:
    """The series in a folder, by three files of it; only if these differ by all of them."""
    files = may_be_dicom(folder)
    keys = {series_key(files[i]) for i in {0, len(files) // 2, len(files) - 1} if files and is_dicom(files[i])}
    if len(keys) > 1:
        keys = {series_key(file) for file in dicom_files(folder)}
    return frozenset(key for key in keys if key)


@functools.lru_cache(maxsize=64)
def _joined(folders: Folders, key: Key) -> Series | None:
    """The images of a series in these folders, None if they are not one scan.

    These have images at the same positions: volumes or copies of the series, or other patients' with the same number.
    """
    parts: dict[Path, tuple[Frame, ...]] = {}
    for folder, _ in folders:
        with contextlib.suppress(DataError):  # it is said when that folder is read
            frames = next((one.frames for one in series_of(folder) if one.frames[0].series == key), ())
            parts.update({folder: frames} if frames else {})
    images = [frame for frames in parts.values() for frame in frames if not frame.unfit]
    if len(parts) < 2 or not images or _apart([*parts.values()]):
        return None
    reason = unfit(images)
    try:
        grid(stacked(images, 0, []), [])
    except FileError as error:
        reason = reason or f"spread over {spread(parts)} and does not join: {error}"
    name = f"series-{'none' if key[1] is None else key[1]}"
    return Series(name, tuple(frame for frames in parts.values() for frame in frames), reason, tuple(parts))


def _apart(parts: Sequence[Sequence[Frame]]) -> bool:
    """Whether at least half of a folder's positions are also another's, copies of single images aside."""
    seen: set[str] = set()
    places = []
    for part in parts:
        new = [frame for frame in part if not frame.instance or frame.instance not in seen]
        seen |= {frame.instance for frame in part}
        places.append({tuple(round(x, 2) for x in frame.position) for frame in new})
    if not all(places):
        return True
    stacks = [place for place in places if len(place) > 1]
    return any(2 * len(one & other) >= min(len(one), len(other)) for one, other in combinations(stacks, 2))
