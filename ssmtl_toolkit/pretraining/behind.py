"""What a thread writes while this one trains on: one thing after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from ssmtl_toolkit.pretraining.ahead import started


class Behind:
    """Lets a thread do something; what it raises is raised here, when that is settled."""

    def __init__(self) -> None:
        self._pending: Future[None] | None = None

    def start(self, act: Callable[[], None]) -> None:
        """Begin; what was begun before must be settled."""
        assert self._pending is None
        self._pending = started(act, "ssmtl-behind", daemon=False)  # the process ends no sooner than the writing

    def settle(self, *, wait: bool) -> None:
        """Raise what it has raised, if it is done or is waited for."""
        pending = self._pending
        if pending is None or not (wait or pending.done()):
            return
        try:
            pending.result()
        finally:
            if pending.done():  # else a signal has ended the waiting
                self._pending = None
