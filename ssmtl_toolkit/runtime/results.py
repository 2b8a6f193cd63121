"""What commands that train return in Python: a folder, what `--json` prints, and how a notebook shows it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = Sequence[Sequence[str]]
"""A table: headings, and the cells below them."""


class Shown:
    """Something that is a title and a table, as text and as HTML."""

    def shown(self) -> tuple[str, Rows]:
        """Its title, and its table with the headings first."""
        raise NotImplementedError

    def __repr__(self) -> str:
        title, rows = self.shown()
        return "\n".join([title, *_lines(rows)])

    def _repr_html_(self) -> str:
        title, rows = self.shown()
        body = "".join(
            f"<tr>{''.join(f'<{cell}>{html.escape(text)}</{cell}>' for text in row)}</tr>"
            for cell, row in zip(["th", *["td"] * len(rows)], rows, strict=False)
        )
        return f"<p>{html.escape(title)}</p>" + (f"<table>{body}</table>" if rows else "")


def _lines(rows: Rows) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """The end of a command that works in a folder; it can be passed wherever that folder can.

    Attributes:
        folder: where its files are.
        summary: what the command prints with `--json`.
    """

    folder: Path
    summary: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.folder)

    def shown(self) -> tuple[str, Rows]:
        return f"{type(self).__name__} in {self.folder}", self.rows()

    def rows(self) -> Rows:
        """What came of it, as a table with the headings first; () if that is more than a table."""
        return ()
