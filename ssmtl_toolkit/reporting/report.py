"""`ssmtl report`: from a run folder to one HTML file, once or as long as the run is under way."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ssmtl_toolkit.data.files import atomic_write
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.foreign import in_one_line
from ssmtl_toolkit.reporting import comparisons, finetuning, pretraining, side
from ssmtl_toolkit.reporting.origins import provenance_section
from ssmtl_toolkit.reporting.parts import Page
from ssmtl_toolkit.reporting.records import Record, find_record, starting
from ssmtl_toolkit.reporting.render import render
from ssmtl_toolkit.runtime.folder import REPORT
from ssmtl_toolkit.text import listed, printable

EVERY = 5.0  # seconds between two looks at a run that is under way

Given = str | os.PathLike[str]


def report(runs: Given | Sequence[Given], *, out: Given | None = None) -> Path:
    """Write the report of a run, or of several side by side, and return the file.

    Args:
        runs: folders of pre-trainings, fine-tunings, comparisons of few labels or experiments, or what those commands
            returned in Python; several are of one kind.
        out: the file; by default report.html in the folder, or of several runs in the folder that holds them all.

    Raises:
        UsageError: a folder holds no run, or they are of several kinds.
        SsmtlError: the file cannot be written.
    """
    records = [find_record(Path(run)) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    _check_alike(records)
    return write(records, _target(records, out))


def watch(run: Given, *, out: Given | None = None, every: float = EVERY) -> Path:
    """Write the report anew as long as the run is under way, then once more; the page reloads itself meanwhile."""
    while starting(Path(run)):
        time.sleep(every)
    while True:
        record = find_record(Path(run))
        file = _target([record], out)
        if not record.live:
            return write([record], file)
        write([record], file, reload=max(2, round(every)))
        time.sleep(every)


def write(records: Sequence[Record], file: Path, reload: int | None = None) -> Path:
    """Write one page."""
    try:
        page = render(_page(records[0], reload) if len(records) == 1 else _side_by_side(records, file))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        places = listed((printable(record.folder) for record in records), 3)
        raise DataError(
            f"the report cannot be drawn ({in_one_line(error)}): a file of {places} is damaged or was changed by hand, "
            f"or a plugin gives what it should not; ssmtl --debug shows where"
        ) from error
    with atomic_write(file, "choose another --out") as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return file


def _check_alike(records: Sequence[Record]) -> None:
    kinds = {record.kind for record in records}
    if len(kinds) > 1:
        raise UsageError(f"the runs are of several kinds ({', '.join(sorted(kinds))}); give runs of one kind")
    if len(records) > 1 and kinds == {"comparison"}:
        raise UsageError("comparisons are not put side by side; give one folder, or the runs in it")


def _target(records: Sequence[Record], out: Given | None) -> Path:
    if not records:
        raise UsageError("no run is given; give at least one folder")
    if out is not None:
        file = Path(out)
        if file.is_dir():
            raise UsageError(f"{printable(file)}: is a folder; give --out the name of a file")
        return file
    folders = [record.folder.absolute() for record in records]
    return Path(os.path.commonpath(folders)) / REPORT


def _page(record: Record, reload: int | None) -> Page:
    made = _SECTIONS[record.kind](record)
    status = ""
    if record.live and reload:
        status = f"Under way: this page loads itself anew every {reload} seconds."
    elif not record.summary:
        status = "Not finished: ssmtl report shows what is there so far; with --watch it follows a run."
    title = f"{record.kind.capitalize()} {record.folder.absolute().name}"
    subtitle = str(record.options.get("backbone") or record.summary.get("backbone") or record.summary.get("data") or "")
    return Page(title, subtitle, [*made, provenance_section(record)], status, reload)


def _side_by_side(records: Sequence[Record], file: Path) -> Page:
    names = side.names_of(records)
    title = f"{len(records)} {records[0].kind}s side by side"
    return Page(title, ", ".join(names), side.sections(records, file))


_SECTIONS = {
    "pre-training": pretraining.sections,
    "fine-tuning": finetuning.sections,
    "comparison": comparisons.sections,
}
