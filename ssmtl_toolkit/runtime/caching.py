"""The cache of prepared slices: who uses it, how large it is, and what may be deleted. No torch."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssmtl_toolkit.data.files import Waiting, holding
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.text import printable

_USERS = "users"  # a file for each process that uses the cache, locked as long as it lives
_DOOR = ".door.lock"  # held while a process enters, and while the cache is cleaned
_DAY = 86400.0
_SORTS = {
    "slices of scans": "slices/*/*",
    "label maps": "labels/*/*",
    "packs of earlier versions": "packs/*",
    "phantoms and others": "*/**/*",
}

_entered: dict[Path, FileLock] = {}


def use_cache(cache: Path, waiting: Waiting = Waiting()) -> None:  # noqa: B008 - frozen
    """Say that this process uses the cache, until it ends, so that nothing is deleted from it meanwhile.

    A cache that cannot be written is used without; nobody can clean it either.
    """
    place = cache.absolute()
    if place in _entered:
        return
    with contextlib.suppress(OSError):
        (cache / _USERS).mkdir(parents=True, exist_ok=True)
        with holding(cache / _DOOR, waiting):
            lock = FileLock(cache / _USERS / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock")
            lock.acquire(blocking=False)
            _entered[place] = lock


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
                    status = file.stat()
                    days = (time.time() - max(status.st_mtime, status.st_atime)) / _DAY
                    found[file] = Cached(file, sort, status.st_size, days)
    return list(found.values())


def _is_kept(file: Path, cache: Path) -> bool:
    """Locks are no contents."""
    return file.relative_to(cache).parts[0] == _USERS or file.suffix == ".lock" or file.name == ".lock"


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


def users(cache: Path) -> list[int]:
    """The processes that use the cache; the marks of those that are gone are removed."""
    alive = []
    for file in sorted((cache / _USERS).glob("*.lock")):
        try:
            with FileLock(file, blocking=False):
                file.unlink(missing_ok=True)
        except Timeout:
            alive.append(int(file.name.partition("-")[0]))
        except OSError:
            continue
    return alive


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold the cache so that no process begins to use it.

    Raises:
        SsmtlError: one does.
    """
    with writable(cache, "check it and its permissions", done="cleaned"), holding(cache / _DOOR, Waiting()):
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
