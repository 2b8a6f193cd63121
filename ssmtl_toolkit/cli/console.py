"""What a person sees: progress and tables on stderr, results on stdout; texts of users are never read as markup."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ssmtl_toolkit.runtime import progress as engine_progress
from ssmtl_toolkit.text import duration

_GAP = 2  # between the columns of a table
_SILENCE = 10  # seconds that nothing need be said


def stderr() -> Console:
    """A console on stderr that takes texts as they are."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def stdout() -> Console:
    """The same on stdout, for tables that are the result."""
    return Console(markup=False, highlight=False, soft_wrap=True)


def print_json(content: Any) -> None:
    """Print one JSON object on stdout, alone."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=True))


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A plain table; cells are never markup."""
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*[_plain(cell) for cell in row])
    return grid


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)


def print_table(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; one that is too wide is split into several, so that no number is broken over lines."""
    width = [max(cell_len(cell) for cell in cells) for cells in zip(columns, *rows, strict=True)]
    width[0] = min(width[0], console.width // 3)  # longer names are folded
    block = [0]
    for i in range(1, len(columns)):
        if len(block) > 1 and sum(width[j] + _GAP for j in block) + width[i] > console.width:
            console.print(table(title, *_chosen(block, columns, rows)))
            console.print()
            title, block = "", [0]
        block.append(i)
    console.print(table(title, *_chosen(block, columns, rows)))


def _chosen(block: list[int], columns: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return [columns[i] for i in block], [[row[i] for i in block] for row in rows]


class RichProgress(engine_progress.Progress):
    """Bars on a terminal; elsewhere lines: early ones, then at each tenth, each with the time to go."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Progress | None = None
        self._task: Any = None
        self._first = self._steps = self._images = 0
        self._pace = self._reading = engine_progress.Pace(1)
        self._lines = _Lines(1)
        self._held_out: dict[str, float] = {}
        self._probe = ""

    def note(self, text: str) -> None:
        self.console.print(f"note: {text}")

    def say(self, text: str) -> None:
        self.console.print(text)

    def preparing(self, scans: int) -> None:
        self._reading, self._lines = engine_progress.Pace(scans), _Lines(scans)
        self._open("scans", scans)

    def prepared(self, name: str) -> None:
        self._reading.update(self._reading.done + 1)
        number, of = self._reading.done, self._reading.total
        if self._bars:
            self._bars.update(self._task, advance=1)
        elif self._reading.elapsed > _SILENCE and number < of and self._lines.due(number):
            self.console.print(f"reading   {number} of {of} scans{self._to_go(self._reading)}")

    def training(self, first: int, steps: int, images: int) -> None:
        self._first, self._steps, self._images = first, steps, images
        self._pace, self._lines, self._held_out = engine_progress.Pace(steps, first), _Lines(steps), {}
        self._probe = ""
        self._open("steps", steps, first)

    def stepped(self, step: int) -> None:
        self._pace.update(step)
        if self._bars:
            self._bars.update(self._task, completed=step)
        elif self._pace.known > 1 and self._pace.elapsed > _SILENCE and self._lines.first:
            self._lines.first = False
            self.console.print(f"step {step}/{self._steps}{self._to_go(self._pace)}")

    def logged(self, record: Mapping[str, float]) -> None:
        if "probe/iou" in record:  # shown with the next losses
            self._probe = f"  probe mIoU {record['probe/iou']:.3f}"
            return
        step = int(record["step"])
        self._pace.update(step)
        speed = (step - self._first) * self._images / max(self._pace.elapsed, 1e-9)
        self._held_out |= {k.removesuffix("/held_out"): v for k, v in record.items() if k.endswith("/held_out")}
        losses = "  ".join(self._loss(k.removesuffix("/loss"), v) for k, v in record.items() if k.endswith("/loss"))
        losses += self._probe
        if self._bars and self.console.is_terminal:
            self._bars.update(self._task, losses=f"{speed:.0f} images/s  {losses}")
        elif self._lines.due(step):
            self._lines.first = self._pace.to_go() is None
            to_go = self._to_go(self._pace)
            self.console.print(f"step {step}/{self._steps}{to_go}  {speed:.0f} images/s  {losses}")

    def _loss(self, label: str, loss: float) -> str:
        apart = f" (held out {self._held_out[label]:.4f})" if label in self._held_out else ""
        return f"{label} {loss:.4f}{apart}"

    @staticmethod
    def _to_go(pace: engine_progress.Pace) -> str:
        seconds = pace.to_go()
        return f"  about {duration(seconds)} to go" if seconds and pace.done < pace.total else ""

    def done(self) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None

    def _open(self, what: str, total: int, completed: int = 0) -> None:
        self.done()
        if not self.console.is_terminal:
            return
        self._bars = Progress(
            TextColumn(what),
            BarColumn(bar_width=None if self.console.width > 100 else 20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._task = self._bars.add_task(what, total=total, completed=completed, losses="")
        self._bars.start()


class _Lines:
    """Which of `total` steps get a line: the first one, one after a hundredth, and one in each tenth.

    Attributes:
        first: whether no line has said yet how long it takes.
    """

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._shown = -2.0
        self.first = True

    def due(self, step: int) -> bool:
        """Whether this step gets a line; asked once for a step, in their order."""
        share = step / self._total
        now = math.floor(10 * share) if share >= 0.1 else -0.5 if share < 0.01 else 0
        later = now > self._shown
        self._shown = now
        return later


@contextlib.contextmanager
def reporting(to_a_person: bool = True) -> Iterator[tuple[Console, engine_progress.Progress]]:
    """Show the progress of the block on stderr; the bars are removed when it ends, however it ends.

    Args:
        to_a_person: if false, nothing is shown: of several processes only the first reports.

    Yields:
        The console on stderr, and the progress to pass on.
    """
    _replace_unprintable()
    console = stderr()
    progress = RichProgress(console) if to_a_person else engine_progress.Progress()
    try:
        yield console, progress
    finally:
        progress.done()


def _replace_unprintable() -> None:
    """Never fail on a character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
