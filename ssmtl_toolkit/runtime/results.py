"""What commands that train return in Python: a folder, and what `--json` prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """The end of a command that works in a folder; it can be passed wherever that folder can.

    Attributes:
        folder: where its files are.
        summary: what the command prints with `--json`.
    """

    folder: Path
    summary: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.folder)
