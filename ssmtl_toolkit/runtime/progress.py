"""What a run reports while it works; the command line shows it, Python code may subscribe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar

showing: ContextVar[Callable[[str], None]] = ContextVar("showing", default=lambda text: None)
"""What shows a line to who waits for this command, for what has no other way to tell."""


class Progress:
    """Is notified of what happens. Every method may be overridden; here they do nothing."""

    def note(self, text: str) -> None:
        """Something worth knowing, one line."""

    def say(self, text: str) -> None:
        """What is being done now, one line."""

    def preparing(self, scans: int) -> None:
        """This many scans are about to be read or found in the cache."""

    def prepared(self, name: str) -> None:
        """One scan is ready."""

    def part(self, name: str) -> None:
        """What comes from here on is of this part of the run, such as `pretrained-0` for an arm and its seed."""

    def training(self, first: int, steps: int, images: int) -> None:
        """Training starts after step `first` of `steps`, with this many anchor images a step."""

    def stepped(self, step: int) -> None:
        """Step `step` is done (counted from 1)."""

    def logged(self, record: Mapping[str, float]) -> None:
        """A line of metrics.jsonl."""

    def done(self) -> None:
        """Nothing more will come."""


class Together(Progress):
    """Passes everything on to several, in order."""

    def __init__(self, *others: Progress) -> None:
        self.others = others

    def note(self, text: str) -> None:
        for other in self.others:
            other.note(text)

    def say(self, text: str) -> None:
        for other in self.others:
            other.say(text)

    def preparing(self, scans: int) -> None:
        for other in self.others:
            other.preparing(scans)

    def prepared(self, name: str) -> None:
        for other in self.others:
            other.prepared(name)

    def part(self, name: str) -> None:
        for other in self.others:
            other.part(name)

    def training(self, first: int, steps: int, images: int) -> None:
        for other in self.others:
            other.training(first, steps, images)

    def stepped(self, step: int) -> None:
        for other in self.others:
            other.stepped(step)

    def logged(self, record: Mapping[str, float]) -> None:
        for other in self.others:
            other.logged(record)

    def done(self) -> None:
        for other in self.others:
            other.done()


class Pace:
    """How fast something gets done, and so how long the rest will take; the first part, a warm-up, does not count."""

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.total, self.done, self._clock = total, done, clock
        self._warm: tuple[int, float] | None = None
        self._now = clock()
        self.began = self._now

    def update(self, done: int) -> None:
        """So many of the total are done now."""
        self.done, self._now = done, self._clock()
        if self._warm is None:
            self._warm = done, self._now

    @property
    def known(self) -> int:
        """How many the speed is estimated from."""
        return self.done - self._warm[0] if self._warm else 0

    @property
    def elapsed(self) -> float:
        """Seconds from the start to the last update."""
        return self._now - self.began

    def to_go(self) -> float | None:
        """Seconds that the rest will take; None as long as only the first part is done."""
        if self._warm is None or not self.known:
            return None
        return (self._now - self._warm[1]) / self.known * (self.total - self.done)
