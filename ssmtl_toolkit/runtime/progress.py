"""What a run tells while it works; the command line draws it, Python may listen."""

from __future__ import annotations

from collections.abc import Mapping


class Progress:
    """Hears what happens. Every method may be overridden; here they are silent."""

    def note(self, text: str) -> None:
        """Something worth knowing, one line."""

    def say(self, text: str) -> None:
        """What is being done now, one line."""

    def preparing(self, scans: int) -> None:
        """So many scans are about to be read or found in the cache."""

    def prepared(self, name: str) -> None:
        """One scan is ready."""

    def training(self, first: int, steps: int, images: int) -> None:
        """Training starts after step `first` of `steps`, with so many anchor images a step."""

    def stepped(self, step: int) -> None:
        """Step `step` is done (counted from 1)."""

    def logged(self, record: Mapping[str, float]) -> None:
        """A line of metrics.jsonl."""

    def done(self) -> None:
        """Nothing more will come."""
