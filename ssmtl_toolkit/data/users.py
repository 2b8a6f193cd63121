"""Which processes use the cache, or a folder in it: each has a lock there for as long as it lives."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from ssmtl_toolkit.data.files import Waiting, holding

USERS = "users"
DOOR = ".door.lock"
"""Held while a process begins to use the cache, and while the cache is cleaned."""

_marks: dict[Path, FileLock] = {}


def use(folder: Path) -> None:
    """Say that this process uses the folder, until it ends.

    Raises:
        OSError: the folder cannot be written.
    """
    place = folder.absolute()
    if place in _marks:
        return
    (folder / USERS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / USERS / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock")
    lock.acquire(blocking=False)
    _marks[place] = lock


def use_cache(cache: Path, waiting: Waiting = Waiting()) -> None:  # noqa: B008 - frozen
    """Say that this process uses the cache, until it ends, so that nothing is deleted from it meanwhile.

    A cache that cannot be written is used without; nobody can clean it either.
    """
    if cache.absolute() in _marks:
        return
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        with holding(cache / DOOR, waiting):
            use(cache)


def users(folder: Path, *, others: bool = False) -> list[int]:
    """The processes that use the folder, or the `others` alone; the marks of those that are gone are removed."""
    own = _marks.get(folder.absolute())
    alive = []
    for file in sorted((folder / USERS).glob("*.lock")):
        if others and own is not None and Path(own.lock_file).name == file.name:
            continue
        try:
            with FileLock(file, blocking=False):
                file.unlink(missing_ok=True)
        except Timeout:
            alive.append(int(file.name.partition("-")[0]))
        except OSError:
            continue
    return alive
