"""What a run reports while it works; the command line shows it, Python code may subscribe."""

from __future__ import annotations

from collections.abc import Mapping


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

    def training(self, first: int, steps: int, images: int) -> None:
        """Training starts after step `first` of `steps`, with this many anchor images a step."""

    def stepped(self, step: int) -> None:
        """Step `step` is done (counted from 1)."""

    def logged(self, record: Mapping[str, float]) -> None:
        """A line of metrics.jsonl."""

    def done(self) -> None:
        """Nothing more will come."""
