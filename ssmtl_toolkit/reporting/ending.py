"""The report at the end of a command: whether it is wanted, and what happens if it cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

from ssmtl_toolkit.foreign import by_the_user, explained
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.text import printable

SWITCH = "SSMTL_REPORT"
"""The environment variable that is 0 where no command should write a report."""


def report_wanted(option: bool) -> bool:
    """Whether a command draws pictures and writes a report: by --report, and unless SSMTL_REPORT is 0."""
    return option and os.environ.get(SWITCH, "1") != "0"


def report_at_end(folder: Path, option: bool, progress: Progress) -> None:
    """Write the report of a finished run; a failure is a note, for the run itself is complete."""
    if not report_wanted(option):
        return
    try:
        from ssmtl_toolkit.reporting.report import report

        file = report(folder)
        progress.say(f"report    {printable(folder / file.name)}")
    except BaseException as error:
        if by_the_user(error):
            raise
        progress.note(f"{printable(folder)}: the report cannot be written: {explained(error)}; try ssmtl report")
