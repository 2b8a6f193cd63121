"""Progress in a notebook: lines below the cell, and one line that changes while something is done."""

from __future__ import annotations

import sys
import time
from typing import Any

from ssmtl_toolkit.runtime.lines import Lines, to_go
from ssmtl_toolkit.runtime.progress import Progress

_PAUSE = 0.5  # seconds between two changes of the line


class NotebookProgress(Lines):
    """Needs IPython, and no widgets."""

    def __init__(self) -> None:
        super().__init__(print)
        self._line: Any = None
        self._shown = 0.0
        self._losses = ""

    def training(self, first: int, steps: int, images: int) -> None:
        super().training(first, steps, images)
        self._losses = ""
        self._change("", now=True)

    def prepared(self, name: str) -> None:
        self.reading.update(self.reading.done + 1)
        self._change(f"reading {self.reading.done} of {self.reading.total} scans{to_go(self.reading)}")

    def stepped(self, step: int) -> None:
        self.pace.update(step)
        last = step == self.pace.total
        self._change(f"step {step}/{self.pace.total}{to_go(self.pace)}  {self._losses}", now=last)

    def show(self, step: int, speed: str, losses: str) -> None:
        self._losses = f"{speed}  {losses}"
        self._change(f"step {step}/{self.pace.total}{to_go(self.pace)}  {self._losses}", now=step == self.pace.total)

    def done(self) -> None:
        self._line = None

    def _change(self, text: str, now: bool = False) -> None:
        """Show a text in the line that changes, at times."""
        if not now and time.monotonic() - self._shown < _PAUSE:
            return
        from IPython.display import display

        self._shown = time.monotonic()
        shown = {"text/plain": text}
        if self._line is None:
            self._line = display(shown, raw=True, display_id=True)
        else:
            self._line.update(shown, raw=True)


def default_progress() -> Progress:
    """What reports to a caller in Python who passes no progress: in a notebook the cell's output, else nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return NotebookProgress() if shell is not None and shell.has_trait("kernel") else Progress()
