"""metrics.jsonl, the log of a training; reading it needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.files import atomic_write, sync
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import printable


class MetricLog:
    """metrics.jsonl: one JSON object a line, in the order of steps."""

    LAST = 0.1  # share of the steps, at the end, whose means are final

    def __init__(self, file: Path) -> None:
        self.file = file
        self._waiting: list[str] = []

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; one that cannot be written waits for the next.

        Raises:
            UnwritableError: it cannot be written.
        """
        self._waiting.append(json.dumps(record) + "\n")
        with (
            writable(self.file),
            self.file.open("ab", buffering=0) as file,
        ):  # a buffer would be written when it is closed
            end, text = file.tell(), "".join(self._waiting).encode()
            try:
                while text:
                    text = text[file.write(text) :]
            except OSError:
                file.truncate(end)  # no half line
                raise
        self._waiting.clear()

    def records(self) -> list[dict[str, Any]]:
        """Read all whole lines; lines that no run of ours has written are skipped."""
        return self._read()[0]

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """The lines that are ours, and how many others there are, a half one at the end not counted."""
        if not self.file.exists():
            return [], 0
        if not self.file.is_file():  # a pipe may never end
            raise DataError(f"{printable(self.file)}: is not a regular file; remove it")
        lines = self.file.read_text(encoding="utf-8", errors="replace").split("\n")
        parsed = [_parsed(line) for line in lines]
        records = [record for record in parsed if record is not None]
        return records, sum(
            record is None and bool(line.strip()) for record, line in zip(parsed[:-1], lines, strict=False)
        )

    def cut(self, step: int) -> str:
        """Drop the lines after `step`, which a resumed run will write again; returns what is wrong with the others."""
        records, others = self._read()
        kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
        lost = step > 0 and all(record["step"] != step for record in records)
        with atomic_write(self.file) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        if lost:  # a line is written before each checkpoint
            return f"{self.file}: its lines up to step {step} are damaged or missing; losses are told of those it has"
        return f"{self.file}: {others} of its lines do not belong to this run, and were dropped" if others else ""

    def problem(self, step: int) -> str:
        """What is wrong with the log of a training that has ended after this step; "": nothing."""
        records, others = self._read()
        whole = others == 0 and any(record["step"] == step for record in records)
        return "" if whole else f"{printable(self.file)}: is damaged or not complete; reports show what is left of it"

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        if self.file.exists():
            with writable(self.file):
                sync(self.file)

    def losses(self, label: str) -> tuple[list[float], float | None]:
        """A task's losses in the order of steps, and the one of the first step, before any update."""
        by_step = self.series(f"{label}/loss")
        return list(by_step.values()), by_step.get(1)

    def series(self, key: str) -> dict[int, float]:
        """All values of a key, by their steps."""
        return {record["step"]: record[key] for record in self.records() if key in record}

    def final(self, label: str, names: tuple[str, ...]) -> dict[str, float]:
        """Means of a task's metrics over the last tenth of the steps, weighted by pairs."""
        records = self.records()
        since = records[-1]["step"] * (1 - self.LAST) if records else 0
        means = {}
        for name in names:
            terms = [
                (r[f"{label}/pairs"], r[f"{label}/{name}"])
                for r in records
                if r["step"] > since and {f"{label}/{name}", f"{label}/pairs"} <= r.keys()
            ]
            if terms:
                means[name] = math.fsum(n * x for n, x in terms) / math.fsum(n for n, _ in terms)
        return means


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl: a step, and numbers by name. None if it is something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(record, dict) and type(record.get("step")) is int
    return record if ours and all(type(value) in (int, float) for value in record.values()) else None
