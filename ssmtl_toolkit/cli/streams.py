"""stdout and stderr as they are found: closed, full, of any encoding; and what others wrote, made safe to show."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.places import without_secrets
from ssmtl_toolkit.text import clipped, printable_lines

_LONGEST = 2000  # characters of a line of a message


class _Results(io.FileIO):
    """stdout. What cannot be written is an error, except that a reader who left (`| head`) is a BrokenPipeError."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SsmtlError(f"stdout: cannot be written to ({error.strerror}); send it somewhere else") from None


class _Messages(io.FileIO):
    """stderr. What cannot be written is lost, and the work continues."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def open_streams() -> None:
    """Make stdout and stderr usable until the process ends.

    Closed ones lead nowhere: otherwise the next file that is opened would take their number, and what is printed.
    Characters that the encoding lacks are escaped. Streams that a test or notebook has put in their place stay.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _lead_nowhere(descriptor)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _opened(_Results(1, "w", closefd=False), sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _opened(_Messages(2, "w", closefd=False), sys.__stderr__, line_buffering=True)


def discard() -> None:
    """Throw away what stdout still holds if it cannot be written: the interpreter would try once more, and complain."""
    try:
        sys.stdout.flush()
    except (SsmtlError, BrokenPipeError):
        _lead_nowhere(1)


def show(message: str) -> None:
    """Write a message to stderr, whatever characters are in it, and however many; secrets in URLs are hidden."""
    encoding = sys.stderr.encoding or "ascii"
    lines = "\n".join(clipped(line, _LONGEST) for line in printable_lines(without_secrets(message)).split("\n"))
    sys.stderr.write(f"{lines}\n".encode(encoding, "backslashreplace").decode(encoding))


def _opened(raw: io.FileIO, before: Any, line_buffering: bool = False) -> io.TextIOWrapper:
    encoding = getattr(before, "encoding", None) or "utf-8"
    lines = line_buffering or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lines)


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
