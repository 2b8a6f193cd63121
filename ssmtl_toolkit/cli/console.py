"""What a person sees: progress and tables on stderr, results on stdout; texts of users are never read as markup."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from ssmtl_toolkit.runtime import progress as engine_progress
from ssmtl_toolkit.runtime.lines import Lines
from ssmtl_toolkit.text import printable_lines

_GAP = 2  # between the columns of a table


class PlainConsole(Console):
    """Takes texts as they are: nothing in them is markup, and what a terminal would act on is escaped."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, soft_wrap=True)

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*[printable_lines(item) if isinstance(item, str) else item for item in objects], **how)


def stderr() -> Console:
    """A console for messages."""
    return PlainConsole(stderr=True)


def stdout() -> Console:
    """A console for tables that are the result."""
    return PlainConsole()


def print_text(text: str) -> None:
    """Print a result of several lines on stdout; what a terminal would act on is escaped."""
    print(printable_lines(text))  # not click.echo: it writes UTF-8 where only ASCII is wanted


def print_json(content: Any) -> None:
    """Print one JSON object on stdout, alone."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=True))


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A plain table; cells are never markup."""
    grid = Table(title=printable_lines(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(printable_lines(column), overflow="fold")
    for row in rows:
        grid.add_row(*[_plain(cell) for cell in row])
    return grid


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text(printable_lines(cell))


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


class RichProgress(Lines):
    """Bars on a terminal, and lines elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console.print)
        self.console = console
        self._bars: Progress | None = None
        self._task: Any = None

    def preparing(self, scans: int) -> None:
        super().preparing(scans)
        self._open("scans", scans)

    def prepared(self, name: str) -> None:
        if self._bars:
            self._bars.update(self._task, advance=1)
        else:
            super().prepared(name)

    def training(self, first: int, steps: int, images: int) -> None:
        super().training(first, steps, images)
        self._open("steps", steps, first)

    def stepped(self, step: int) -> None:
        if self._bars:
            self.pace.update(step)
            self._bars.update(self._task, completed=step)
        else:
            super().stepped(step)

    def show(self, step: int, speed: str, losses: str) -> None:
        if self._bars:
            self._bars.update(self._task, losses=printable_lines(f"{speed}  {losses}"))
        else:
            super().show(step, speed, losses)

    def done(self) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None

    def _open(self, what: str, total: int, completed: int = 0) -> None:
        self.done()
        if not self.console.is_terminal:
            return
        counted, rest = Column(min_width=2 * len(str(total)) + 1), Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self._bars = Progress(
            TextColumn(what, table_column=Column(min_width=len(what))),
            BarColumn(bar_width=40 if self.console.width > 100 else 10),
            MofNCompleteColumn(table_column=counted),
            TimeRemainingColumn(table_column=Column(min_width=len("0:00:00"))),
            TextColumn("{task.fields[losses]}", markup=False, table_column=rest),  # alone cut short if there is no room
            console=self.console,
            transient=True,
            expand=True,
        )
        self._task = self._bars.add_task(what, total=total, completed=completed, losses="")
        self._bars.start()


@contextlib.contextmanager
def reporting(to_a_person: bool = True) -> Iterator[tuple[Console, engine_progress.Progress]]:
    """Show the progress of the block on stderr; the bars are removed when it ends, however it ends.

    Args:
        to_a_person: if false, nothing is shown: of several processes only the first reports.

    Yields:
        The console on stderr, and the progress to pass on.
    """
    console = stderr()
    progress = RichProgress(console) if to_a_person else engine_progress.Progress()
    before = engine_progress.showing.set(progress.note)
    try:
        yield console, progress
    finally:
        engine_progress.showing.reset(before)
        progress.done()


@contextlib.contextmanager
def logged(console: Console, folder: Path) -> Iterator[None]:
    """Write what is printed in the block into the log of the run folder too."""
    from ssmtl_toolkit.runtime.logfile import LogFile

    console.record = True
    try:
        yield
    finally:
        LogFile(folder).write(console.export_text())
        console.record = False
