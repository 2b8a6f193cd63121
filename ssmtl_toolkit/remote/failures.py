"""What is said when another machine does not give what it is asked for: what, where, why, and what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.foreign import in_one_line
from ssmtl_toolkit.places import without_secrets
from ssmtl_toolkit.text import clipped, printable

T = TypeVar("T")

_PAUSES = (0.5, 2.0)  # seconds before it is asked again
_BUSY = (408, 425, 429)  # status codes by which a server asks for patience
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)


class RemoteError(DataError):
    """Something cannot be had from another machine; it is `lost` if that may be otherwise in a while."""

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


class OursError(Exception):
    """A file here cannot be written, which is no failure of another machine."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def asked(what: str, ask: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Return what `ask` returns; what may be otherwise in a while is asked for three times.

    Args:
        what: a URL, for messages.
        ask: raises whatever a library does.
        stop: ends the pauses.

    Raises:
        RemoteError: in one line.
        OursError: as `ask`.
    """
    waiting = stop or threading.Event()
    for pause in (*_PAUSES, None):
        try:
            return ask()
        except (RemoteError, OursError):
            raise
        except Exception as error:
            reason = _cause(error)
            if pause is None or not _may_pass(reason) or waiting.wait(pause):
                raise RemoteError(f"{printable(what)}: {_said(reason)}", lost=_may_pass(reason)) from error
    raise AssertionError  # the last pause is None


def _cause(error: Exception) -> Exception:
    """The reason itself: fsspec says of whatever goes wrong by HTTP that there is no such file."""
    cause = error.__cause__
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) else error


def _status(error: Exception) -> int:
    """The status code of a server's answer; 0: there was none."""
    for name in ("status", "code"):
        if isinstance(status := getattr(error, name, None), int):
            return status
    return 0


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status:
        return status >= 500 or status in _BUSY
    return (isinstance(error, OSError | TimeoutError | EOFError) and not isinstance(error, _FINAL)) or _broken_off(
        error
    )


def _broken_off(error: Exception) -> bool:
    """Whether a connection failed, in the words of aiohttp, httpx and botocore, which may not be installed."""
    words = ("ClientPayloadError", "ServerDisconnected", "ConnectionError", "TransportError", "Timeout")
    return any(word in kind.__name__ for kind in type(error).__mro__ for word in words)


def _said(error: Exception) -> str:
    status = _status(error)
    words = clipped(without_secrets(in_one_line(error)), 200)
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        return "there is no such file, folder or bucket; check the address"
    if status in (401, 403) or isinstance(error, PermissionError) or "redential" in type(error).__name__:
        return (
            f"may not be read or listed ({words}); check the address, and the credentials in ~/.netrc, or where the "
            f"package for this kind of address looks for them"
        )
    if _may_pass(error):
        return f"cannot be reached ({words}); check the address and the network, and try again"
    return f"cannot be read ({words}); check the address"
