"""log.txt: what a terminal was told, a line each with the time of day."""

from __future__ import annotations

import time
from pathlib import Path

from ssmtl_toolkit.runtime.environment import command
from ssmtl_toolkit.runtime.folder import LOG
from ssmtl_toolkit.text import printable


class LogFile:
    """The file log.txt of a folder; what cannot be written is lost."""

    def __init__(self, folder: Path, *, waits: bool = False) -> None:
        """If it `waits`, lines are kept until `begin` says that the folder is a run's."""
        self._file = folder / LOG
        self._waiting: list[str] | None = [] if waits else None

    def begin(self) -> None:
        """Write the command, and the lines that have waited."""
        waiting, self._waiting = self._waiting or [], None
        self._append([f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {printable(command())}\n", *waiting])

    def write(self, text: str) -> None:
        """Add a text; control characters in it are escaped."""
        now = time.strftime("%H:%M:%S")
        lines = [f"{now}  {printable(line)}\n" for line in text.strip("\n").split("\n")]
        if self._waiting is None:
            self._append(lines)
        else:
            self._waiting += lines

    def _append(self, lines: list[str]) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
        except OSError:  # whoever has more to lose by a full disk says so
            return
