"""What a thread makes while this one trains: the next of a row of things."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Gives `make(number)`, a pure function, and lets a thread make that of the next number meanwhile.

    Each thread makes one thing and ends: none has to be stopped. What it raises is raised when that thing is asked for.
    Other numbers may be asked for at any time; what was made ahead is then made in vain.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._next: tuple[int, Future[T]] = -1, Future()

    def __call__(self, number: int) -> T:
        following, future = self._next
        made = future.result() if following == number else self._make(number)
        if self._next[0] != number + 1:
            self._next = number + 1, self._started(number + 1)
        return made

    def _started(self, number: int) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(self._make(number))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="ssmtl-ahead", daemon=True).start()
        return future
