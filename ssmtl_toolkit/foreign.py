"""Code of plugins: whatever it raises, the command fails and says whose fault it is; it never ends the process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.text import printable


class CtrlC(KeyboardInterrupt):
    """Ctrl-C itself, as distinct from a KeyboardInterrupt that some code raises."""


def ctrl_c(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT as Python does, by an exception of our own."""
    raise CtrlC


def by_the_user(error: BaseException) -> bool:
    """Whether this is, or may be, a Ctrl-C: Python's own handler raises the same exception as code does."""
    plain = isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return plain or isinstance(error, CtrlC)


def explained(error: BaseException, hint: str = "") -> str:
    """An exception in one line, and what to do."""
    ends = "" if isinstance(error, Exception) else ", which would end the process before the work is done"
    return f"{in_one_line(error)}{ends}{hint}; ssmtl --debug shows where"


def in_one_line(error: BaseException) -> str:
    """The name of an exception, and the first line of what it says."""
    text = printable(next(iter(str(error).strip().splitlines()), ""))[:200]
    return f"{type(error).__name__}{f': {text}' if text else ''}"


@contextlib.contextmanager
def foreign(part: str, passing: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Name the `part` whose code fails in the block, even if it tries to end the process (sys.exit in a library).

    Exceptions of the kinds `passing` pass through unchanged.

    Raises:
        SsmtlError: the one raised inside, or one naming the part and what it raised.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (SsmtlError, passing)) or by_the_user(error):
            raise
        raise SsmtlError(f"{part} failed: {explained(error)}") from error
