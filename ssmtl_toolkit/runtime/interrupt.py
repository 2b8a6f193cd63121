"""Ctrl-C, and what schedulers and closing terminals send before they kill: finish the step, save, exit."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from ssmtl_toolkit.errors import SsmtlError

_ALWAYS = (signal.SIGINT, signal.SIGTERM)
_UNLESS_IGNORED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""A closed terminal or session, torchrun's SIGQUIT, the warnings of SLURM, SGE and LSF, and the soft CPU limit. If
one of them is ignored when the command starts (nohup, a shell's background jobs), it stays so."""
_ECHO = 0.1  # s; a closing terminal, bash and torchrun send the same signal twice within this


class InterruptedRunError(SsmtlError):
    """A signal ended the run after its state was saved; the exit code is 128 + the signal's number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interrupts:
    """While active, the first signal that asks to exit is only noted in `number`; the second acts as usual.

    An exception that a signal throws into the middle of a library can be swallowed there; a note cannot.
    May be entered again while active.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        self._depth = 0

    def check(self, state: str) -> None:
        """Raise if a signal has come, saying in what `state` things are."""
        if self.number:
            by = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
            raise InterruptedRunError(f"stopped by {by}; {state}", self.number)

    def __enter__(self) -> Interrupts:
        self._depth += 1
        if self._depth > 1:
            return self
        self.number = 0
        if threading.current_thread() is threading.main_thread():
            for number in (*_ALWAYS, *filter(_can_be_handled, _UNLESS_IGNORED)):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            return  # an echo of the first
        self.number = number
        if number == signal.SIGHUP:
            _let_go_of_a_closed_terminal()
        time.sleep(_ECHO)
        self._restore(kept=signal.SIGXCPU if number == signal.SIGXCPU else 0)  # that one is repeated every second

    def _restore(self, kept: int = 0) -> None:
        for number in self._before.keys() - {kept}:
            signal.signal(number, self._before.pop(number))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._restore()


def _can_be_handled(number: int) -> bool:
    """Whether a signal is neither ignored nor handled by non-Python code."""
    return signal.getsignal(number) not in (signal.SIG_IGN, None)


def _let_go_of_a_closed_terminal() -> None:
    """Write to nowhere instead: a message to a terminal that is gone is an error, and would end the run unsaved."""
    import errno
    import termios

    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)


interrupts = Interrupts()
"""The one of this process: signals are the process's too."""
