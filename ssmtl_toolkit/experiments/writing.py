"""The files that a comparison writes: one name, several suffixes, each whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.files import atomic_write


def write_texts(out: Path, name: str, texts: Mapping[str, str]) -> None:
    """Write `texts`, by suffix, as NAME.suffix into `out`.

    Raises:
        SsmtlError: the disk is full or not writable.
    """
    for suffix, text in texts.items():
        with atomic_write(out / f"{name}.{suffix}", "choose another --out") as temporary:
            temporary.write_text(text, encoding="utf-8")


Shown = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A table as it is shown: title, headings, cells by rows."""


def as_shown(tables: Iterable[Shown], remarks: Sequence[str]) -> dict[str, Any]:
    """What a comparison's JSON holds of what people are shown, from which `ssmtl report` makes a page."""
    named = [
        {"title": title, "heads": list(heads), "rows": [list(row) for row in rows]} for title, heads, rows in tables
    ]
    return {"tables": named, "remarks": list(remarks)}
