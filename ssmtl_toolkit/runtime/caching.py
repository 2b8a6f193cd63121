"""The cache of prepared slices: how large it is, and what may be deleted. No torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.files import Waiting, holding
from ssmtl_toolkit.data.users import DOOR, USERS, users
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.remote.mirror import COMPLETE, ROOM
from ssmtl_toolkit.text import printable

_DAY = 86400.0
_SORTS = {
    "slices of scans": "slices/*/*",
    "label maps": "labels/*/*",
    "packs of earlier versions": "packs/*",
    "files of URLs": f"{ROOM}/*/**/*",
    "phantoms and others": "*/**/*",
}


@dataclass(frozen=True)
class Cached:
    """One file of the cache: what it is, its size in bytes, and how many days ago it was last used."""

    file: Path
    sort: str
    size: int
    days: float


def contents(cache: Path) -> list[Cached]:
    """All files of the cache."""
    found: dict[Path, Cached] = {}
    for sort, pattern in _SORTS.items():
        for file in cache.glob(pattern):
            with contextlib.suppress(OSError):
                if file.is_file() and file not in found and not _is_kept(file, cache):
                    found[file] = Cached(file, sort, file.stat().st_size, _days(file, cache))
    return list(found.values())


def _days(file: Path, cache: Path) -> float:
    """How long ago a file was used; what was fetched from one URL is used together."""
    room, *inside = file.relative_to(cache).parts
    mark = cache / room / inside[0] / COMPLETE if room == ROOM else file
    status = (mark if mark.is_file() else file).stat()
    return (time.time() - max(status.st_mtime, status.st_atime)) / _DAY


def _is_kept(file: Path, cache: Path) -> bool:
    """Locks are no contents."""
    return file.relative_to(cache).parts[0] == USERS or file.suffix == ".lock" or file.name == ".lock"


def is_stale(cached: Cached, cache: Path) -> bool:
    """Whether nothing will read it again: half a file, or slices in the format of an older version."""
    if cached.file.name.startswith(".") or cached.file.suffix == ".part":
        return True
    from ssmtl_toolkit.data.pieces import is_piece
    from ssmtl_toolkit.data.sealed import ROOMS, Sealed

    room = cached.file.relative_to(cache).parts[0]
    if room not in ROOMS:
        return False
    about = Sealed(cached.file, cached.file.stem).about()
    return about is None or (room == "slices" and not is_piece(about))


def clean(cache: Path, older_than: float) -> list[Cached]:
    """Delete what is stale, and what was last used more than so many days ago; returns what was deleted.

    Raises:
        SsmtlError: a process uses the cache; nothing is deleted.
    """
    with _alone(cache):
        gone = [item for item in contents(cache) if item.days > older_than or is_stale(item, cache)]
        for item in gone:
            item.file.unlink(missing_ok=True)
        return gone


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold the cache so that no process begins to use it.

    Raises:
        SsmtlError: one does.
    """
    with writable(cache, "check it and its permissions", done="cleaned"), holding(cache / DOOR, Waiting()):
        if busy := users(cache):
            raise SsmtlError(
                f"{printable(cache)}: is in use by process {', '.join(map(str, busy))}; nothing was deleted; wait for "
                f"it to end"
            )
        yield


def summed_up(cache: Path) -> dict[str, Any]:
    """The sizes of the cache by what it holds, in bytes, and who uses it."""
    items = contents(cache)
    sorts = {
        sort: {"files": len(some), "bytes": sum(item.size for item in some)}
        for sort in _SORTS
        for some in [[item for item in items if item.sort == sort]]
    }
    stale = [item for item in items if is_stale(item, cache)]
    return {
        "cache": str(cache),
        "bytes": sum(item.size for item in items),
        "contents": sorts,
        "stale": {"files": len(stale), "bytes": sum(item.size for item in stale)},
        "users": users(cache),
    }
