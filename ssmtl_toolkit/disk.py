"""What is half written, by whom, and what is said when a file cannot be written: which, why, and what to do."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.text import printable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_OF_DISKS = (*_FULL, *_FORBIDDEN, errno.EIO)
_HOST = hashlib.sha256(socket.gethostname().encode(errors="surrogateescape")).hexdigest()[:8]
_HALF = re.compile(rf"\..+\.{_HOST}-(\d+)-\d+\.part")
_tidied: set[Path] = set()  # folders in which this process has removed what others had left
_IN_WORDS = re.compile(r"\(os error (\d+)\)")  # as libraries in Rust say it, such as safetensors


class UnwritableError(SsmtlError, OSError):
    """A file or folder cannot be written: which, why, and what to do."""


@contextlib.contextmanager
def writable(
    place: Path, todo: str = "choose another folder", what: str = "", *, done: str = "written", strangers: bool = False
) -> Iterator[None]:
    """Say what is wrong if `place` cannot be written in the block.

    Args:
        place: the file or folder.
        todo: what to do, beside what the reason suggests.
        what: what it is, with a space behind it: "the cache ".
        done: what cannot be done to it.
        strangers: the block also does what has nothing to do with `place`: only a disk that is full, read-only or
            broken and missing permissions are said to be the reason.

    Raises:
        UnwritableError: it cannot.
    """
    try:
        yield
    except UnwritableError:  # of a file in it
        raise
    except Exception as error:
        number = _number(error)
        if number is None or (strangers and number not in _OF_DISKS):
            raise
        raise UnwritableError(
            f"{printable(place)}: {what}cannot be {done} ({_reason(place, number)}); {_todo(number, todo)}"
        ) from error


def half_of(path: Path) -> Path:
    """Where this thread writes what takes the place of `path` when it is whole; the dead have left nothing there."""
    if path.parent not in _tidied:
        remove_halves_of_the_dead(path.parent)
        _tidied.add(path.parent)
    return path.with_name(f".{path.name[:80]}.{_HOST}-{os.getpid()}-{threading.get_ident()}.part")


@contextlib.contextmanager
def whole_folder(folder: Path, todo: str = "choose another folder") -> Iterator[Path]:
    """Give a temporary folder beside `folder`, which does not exist or is empty; on leaving it takes its place.

    After an error, or when the process is killed, nothing is there. A folder that holds the same files already stays.

    Raises:
        UnwritableError: it cannot be written, and what to do; as `writable`.
    """
    unfinished = half_of(folder)
    try:
        with writable(folder, todo):
            unfinished.mkdir(parents=True)
            yield unfinished
            if folder.is_dir():
                if _alike(folder, unfinished):
                    return
                folder.rmdir()
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _alike(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, and one at least."""
    names, others = ({path.relative_to(folder) for path in folder.rglob("*")} for folder in (one, other))
    files = [(one / name, other / name) for name in names if not (one / name).is_dir()]
    return bool(names) and names == others and all(filecmp.cmp(*pair, shallow=False) for pair in files)


def remove_halves_of_the_dead(folder: Path) -> None:
    """Remove the files and folders that processes of this machine have left half written here, and are gone."""
    with contextlib.suppress(OSError):
        for half in [half for half in folder.iterdir() if _is_dead(_HALF.fullmatch(half.name))]:
            if half.is_dir():
                shutil.rmtree(half, ignore_errors=True)
            else:
                half.unlink(missing_ok=True)


def _is_dead(half: re.Match[str] | None) -> bool:
    try:
        if half is not None:
            os.kill(int(half[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's
        return False
    return False


def unusable(error: OSError) -> str:
    """Say which file could not be read or written, why, and what to do; for errors that name the file."""
    number, place = error.errno or 0, Path(os.fsdecode(error.filename))
    todo = _todo(number, "check it and its permissions")
    return f"{printable(place)}: cannot be read or written ({_reason(place, number)}); {todo}"


def _number(error: Exception) -> int | None:
    """The errno, if it is an error of the file system."""
    if isinstance(error, OSError):
        return error.errno
    match = _IN_WORDS.search(str(error))
    return int(match[1]) if match else None


def _reason(place: Path, number: int) -> str:
    reason = os.strerror(number)
    if number not in _FULL:
        return reason
    with contextlib.suppress(OSError):
        parent = next(parent for parent in place.absolute().parents if parent.is_dir())
        return f"{reason}, {shutil.disk_usage(parent).free / 2**20:.1f} MiB free"
    return reason


def _todo(number: int, todo: str) -> str:
    if number in _FULL:
        return f"free some space, or {todo}"
    return f"allow writing there, or {todo}" if number in _FORBIDDEN else todo
