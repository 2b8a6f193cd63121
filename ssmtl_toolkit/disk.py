"""What is said when a file or folder cannot be written: which, why, how much space is free, and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.text import printable

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_WORDS = re.compile(r"\(os error (\d+)\)")  # as libraries in Rust say it, such as safetensors


class UnwritableError(SsmtlError, OSError):
    """A file or folder cannot be written: which, why, and what to do."""


@contextlib.contextmanager
def writable(place: Path, todo: str = "choose another folder", what: str = "") -> Iterator[None]:
    """Say what is wrong if `place` cannot be written in the block.

    Args:
        place: the file or folder.
        todo: what to do, beside what the reason suggests.
        what: what it is, with a space behind it: "the cache ".

    Raises:
        UnwritableError: it cannot.
    """
    try:
        yield
    except UnwritableError:  # of a file in it
        raise
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        raise UnwritableError(
            f"{printable(place)}: {what}cannot be written ({_reason(place, number)}); {_todo(number, todo)}"
        ) from error


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
