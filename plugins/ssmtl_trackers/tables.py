"""A run as tables of text, which everything opens."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.files import atomic_write
from ssmtl_toolkit.engine.tracker import State, TrackedRun, Tracker

_SCALARS = ("part", "step", "name", "value")


class Tables(Tracker):
    """Scalars are a row each, with the part of the run that they belong to."""

    def __init__(self, run: TrackedRun) -> None:
        self.folder = run.folder / "csv"
        self.folder.mkdir(exist_ok=True)
        self._values: dict[str, Any] = {}
        _write(self.folder / "config.csv", [("name", "value"), *_texts(run.config)])
        if not self._scalars.is_file():
            _write(self._scalars, [_SCALARS])

    @property
    def _scalars(self) -> Path:
        return self.folder / "scalars.csv"

    def where(self) -> str:
        return str(self._scalars)

    def training(self, part: str, step: int) -> None:
        with self._scalars.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        _write(self._scalars, [row for row in rows if row[0] != part or not row[1].isdecimal() or int(row[1]) <= step])

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        with self._scalars.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows((part, step, name, value) for name, value in values.items())

    def scores(self, values: Mapping[str, float]) -> None:
        self._values |= values

    def end(self, state: State) -> None:
        _write(self.folder / "scores.csv", [("name", "value"), *self._values.items(), ("state", state)])


def _write(file: Path, rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)


def _texts(config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Options as cells; a list is written as JSON."""
    return ((name, json.dumps(value) if isinstance(value, list | dict) else value) for name, value in config.items())
