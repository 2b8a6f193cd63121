"""What a thread makes while this one trains: the next of a row of things."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


def started(make: Callable[[], T], name: str, *, daemon: bool) -> Future[T]:
    """Let a thread make one thing and end: none has to be stopped. What it raises is raised when that is asked for.

    A `daemon` is left behind at the end of the process, which otherwise waits for it.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=daemon).start()
    return future


class Ahead(Generic[T]):
    """Gives `make(number)`, a pure function, and lets a thread make that of the next number meanwhile.

    Other numbers may be asked for at any time; what was made ahead is then made in vain.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._next: tuple[int, Future[T]] = -1, Future()

    def __call__(self, number: int) -> T:
        following, future = self._next
        made = future.result() if following == number else self._make(number)
        if self._next[0] != number + 1:
            self._next = number + 1, started(lambda: self._make(number + 1), "ssmtl-ahead", daemon=True)
        return made
