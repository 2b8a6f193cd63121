"""Code of plugins: whatever it raises, the command fails and says whose fault it is; it never ends the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.text import printable

SLOW, LONGEST = 10.0, 60.0
"""After how many seconds an import is reported, and after how many it is given up."""


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
    text = first_line(error)
    return f"{printable(type(error).__name__)}{f': {text}' if text else ''}"


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or ""."""
    return printable(next(iter(words_of(error).strip().splitlines()), ""))[:200]


def words_of(error: BaseException) -> str:
    """What an exception says; "" if it fails to say it, for its text is made by code of a plugin, too."""
    try:
        return str(error)
    except BaseException as another:
        if by_the_user(another):
            raise
        return ""


def attributed(error: SsmtlError, part: str, name: str) -> SsmtlError:
    """An error of ours that code of a part has raised, by which the part is found: itself if it has the name in it."""
    words = words_of(error)
    if name in words:
        return error
    kind = next((kind for kind in (UsageError, DataError) if isinstance(error, kind)), SsmtlError)
    named = kind(f"{part}: {words or in_one_line(error)}")
    named.exit_code = error.exit_code
    return named


@contextlib.contextmanager
def foreign(part: str, passing: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Name the `part` whose code fails in the block, even if it tries to end the process (sys.exit in a library).

    Exceptions of the kinds `passing` pass through unchanged.

    Raises:
        SsmtlError: the one raised inside, or one naming the part and what it raised.
    """
    with staying(part):
        try:
            yield
        except BaseException as error:
            if isinstance(error, (SsmtlError, passing)) or by_the_user(error):
                raise
            raise SsmtlError(f"{part} failed: {explained(error)}") from error


_REMOVED = "."
"""What stands for a working directory that was removed under us: no part has left it."""


@contextlib.contextmanager
def staying(part: str) -> Iterator[None]:
    """Refuse a `part` whose code in the block leaves the working directory, and go back: relative paths start there.

    Raises:
        SsmtlError: naming the part and where it went.
    """
    before = _here()
    try:
        yield
    finally:
        after = _here()
        left = after not in (before, _REMOVED)
        if left:
            os.chdir(before)
    if left:
        raise SsmtlError(
            f"{part} changed the working directory to {printable(after)}, where the files of this command would be "
            f"looked for; it must leave it as it is"
        )


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - asked around every call of a reader
    except OSError:
        return _REMOVED


@contextlib.contextmanager
def guarded(what: str, *, watched: bool = True) -> Iterator[None]:
    """While code of a plugin is imported: what it prints is no result of ours.

    If it is `watched`, it can neither end the process by os._exit, nor take longer than `LONGEST`.
    """
    with staying(what), contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as watch:
        if watched:
            watch.enter_context(_without_exit())
            watch.enter_context(_time_limit(what))
        yield


class TooSlowError(BaseException):
    """An import was given up; no Exception, which the code that is interrupted may catch."""


@contextlib.contextmanager
def _without_exit() -> Iterator[None]:
    """Make os._exit raise, in this process; in its children it is how they end."""
    really, process = os._exit, os.getpid()

    def leave(status: int) -> NoReturn:
        if os.getpid() != process:
            really(status)
        raise SystemExit(f"os._exit({status})")

    exits: Any = os
    exits._exit = leave
    try:
        yield
    finally:
        exits._exit = really


def tell_slow(what: str, seconds: float) -> None:
    """Say on stderr whose import is slow, and how to do without it."""
    sys.stderr.write(f"{printable(what)} has been importing for {seconds:.0f} s; ssmtl --no-plugins does without it\n")


@contextlib.contextmanager
def _time_limit(what: str) -> Iterator[None]:
    """Report code that is slow, and interrupt it after a while; Python can do so in its main thread only."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer") or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return
    began = time.monotonic()

    def ring(number: int, frame: FrameType | None) -> None:
        seconds = time.monotonic() - began
        if seconds >= LONGEST:
            raise TooSlowError(f"its import takes more than {LONGEST:g} s")
        tell_slow(what, seconds)

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SLOW, SLOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
