"""Ctrl-C and SIGTERM: finish the step, save, leave; the second one leaves at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from ssmtl_toolkit.errors import SsmtlError


class InterruptedRunError(SsmtlError):
    """A signal ended the run after its state was saved; the exit code is 128 + the signal's number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interrupts:
    """While active, the first SIGINT or SIGTERM is only noted in `number`; the second acts as usual.

    An exception that a signal throws into the middle of a library can be swallowed there; a note cannot.
    May be entered again while active.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        self._depth = 0

    def check(self, state: str) -> None:
        """Leave if a signal has come, saying in what `state` things are."""
        if self.number:
            by = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}.get(signal.Signals(self.number), "a signal")
            raise InterruptedRunError(f"stopped by {by}; {state}", self.number)

    def __enter__(self) -> Interrupts:
        self._depth += 1
        if self._depth > 1:
            return self
        self.number = 0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._restore()


interrupts = Interrupts()
"""The one of this process: signals are the process's too."""
