"""Series whose files lie in several folders below one: which folders, and whether they join to one scan."""

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
from ssmtl_toolkit.data.uneven import unevenness
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import listed, printable

Key = tuple[str, int | None]  # what the images of a series have in common
Folders = tuple[tuple[Path, int], ...]  # with their modification times


def whole_series_of(folder: Path) -> tuple[Series, ...]:
    """Return the series in a folder, each with its images in folders below, and those spread over folders below.

    Raises:
        DataError: naming a file that is damaged.
    """
    joined = spread_below(folder)
    own = series_of(folder)
    own_keys = {series.frames[0].series for series in own}
    return (
        *(replace(joined.get(series.frames[0].series, series), name=series.name) for series in own),
        *(series for key, series in joined.items() if key not in own_keys),
    )


def spread(folders: Collection[Path]) -> str:
    """Name the folders of a series, below the one that holds them all."""
    above = os.path.commonpath(folders)
    names = [os.path.relpath(folder, above) if str(folder) != above else folder.name for folder in folders]
    return f"{len(folders)} folders ({listed(map(printable, names), 3)})"


def spread_below(folder: Path) -> dict[Key, Series]:
    """Find the series spread over a folder and those below it, except those within a single one of the latter."""
    folders: dict[Key, list[tuple[Path, int]]] = {}
    for path in folders_below(folder):
        with contextlib.suppress(OSError):
            time = path.stat().st_mtime_ns
            for key in _keys(path, time):
                folders.setdefault(key, []).append((path, time))
    branches = {key: {path.relative_to(folder).parts[:1] for path, _ in paths} for key, paths in folders.items()}
    by_number = sorted(folders.items(), key=lambda item: (item[0][1] is None, item[0][1] or 0, item[0][0]))
    joined = {key: _joined(tuple(paths), key) for key, paths in by_number if len(branches[key]) > 1}
    return {key: series for key, series in joined.items() if series is not None}


def series_uids(path: Path) -> frozenset[str]:
    """The SeriesInstanceUIDs of a scan, a file or a folder with those below it; they are not to be shown."""
    if not path.is_dir():
        with contextlib.suppress(OSError):
            key = _key(path, path.stat().st_mtime_ns) if is_dicom(path) else None
            return frozenset([key[0]] if key else [])
    found: set[str] = set()
    for folder in folders_below(path):
        with contextlib.suppress(OSError):
            found.update(uid for uid, _ in _keys(folder, folder.stat().st_mtime_ns))
    return frozenset(found)


@functools.lru_cache(maxsize=1 << 14)
def _key(file: Path, time: int) -> Key | None:
    return series_key(file)


@functools.lru_cache(maxsize=1 << 14)
def _keys(folder: Path, time: int) -> frozenset[Key]:
    """Return the series in a folder, judged by three of its files; if these differ, by all."""
    files = may_be_dicom(folder)
    keys = {series_key(files[i]) for i in {0, len(files) // 2, len(files) - 1} if files and is_dicom(files[i])}
    if len(keys) > 1:
        keys = {series_key(file) for file in dicom_files(folder)}
    return frozenset(key for key in keys if key)


@functools.lru_cache(maxsize=64)
def _joined(folders: Folders, key: Key) -> Series | None:
    """Join the images of a series in these folders; None if they are not one scan.

    They are not if images lie at the same positions: volumes or copies, or other patients with the same series number.
    """
    parts: dict[Path, tuple[Frame, ...]] = {}
    for folder, _ in folders:
        with contextlib.suppress(DataError):  # reported when that folder is read
            frames = next((series.frames for series in series_of(folder) if series.frames[0].series == key), ())
            parts.update({folder: frames} if frames else {})
    images = [frame for frames in parts.values() for frame in frames if not frame.unfit]
    if len(parts) < 2 or not images or _overlap([*parts.values()]):
        return None
    reason = unfit(images)
    try:
        placed = grid(stacked(images, 0, []), [])
        problem = unevenness(placed.affine, 2, placed.positions)
    except FileError as error:
        problem = str(error)
    if problem:
        reason = reason or f"spread over {spread(parts)} and does not join: {problem}"
    name = f"series-{'none' if key[1] is None else key[1]}"
    return Series(name, tuple(frame for frames in parts.values() for frame in frames), reason, tuple(parts))


def _overlap(parts: Sequence[Sequence[Frame]]) -> bool:
    """Whether another folder has at least half of a folder's positions too, copies of single images aside."""
    seen: set[str] = set()
    places = []
    for part in parts:
        new = [frame for frame in part if not frame.instance or frame.instance not in seen]
        seen |= {frame.instance for frame in part}
        places.append({tuple(round(x, 2) for x in frame.position) for frame in new})
    if not all(places):
        return True
    stacks = [place for place in places if len(place) > 1]
    return any(2 * len(a & b) >= min(len(a), len(b)) for a, b in combinations(stacks, 2))
