"""`ssmtl runs`: the runs in a folder, how far they are, which is best, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import clipped, counted, printable

if TYPE_CHECKING:
    from ssmtl_toolkit.runtime.overview import RunInfo

_LONGEST = 24  # characters of an option's value


@click.command("runs", cls=OnceCommand)
@click.argument("folders", metavar="[DIR]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--differences", is_flag=True, help="Show in which options they differ, and no other.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(folders: Sequence[Path], differences: bool, as_json: bool) -> None:
    """Each DIR is a run, or a folder that runs are below; without DIR it is runs/.

    \b
      ssmtl runs
      ssmtl runs runs/first runs/second --differences
    """
    from ssmtl_toolkit.cli.console import print_json, print_table, stderr, stdout
    from ssmtl_toolkit.runtime.overview import best, differing, runs_below

    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{printable(folder)}: no such folder; give a run, or a folder that runs are below")
    found = {run.folder.resolve(): run for folder in folders or [Path("runs")] for run in runs_below(folder)}
    runs = list(found.values())
    changed, first = differing(runs), best(runs)
    if as_json:
        about = [run.to_json() | {"options": dict(run.options)} for run in runs]
        print_json({"runs": about, "best": first and str(first.folder), "differences": changed})
        return
    if not runs:
        stderr().print("no runs; ssmtl run makes one")
        return
    names = _names(runs)
    if differences:
        rows = [[clipped(text, _LONGEST) for text in (option, *values)] for option, values in changed.items()]
        print_table(stdout(), "", [clipped(text, _LONGEST) for text in ("option", *names)], rows)
        return
    cells = [[run.command, run.state, run.started[:10], _outcome(run)] for run in runs]
    rows = [[name, *more] for name, more in zip(names, cells, strict=True)]
    print_table(stdout(), "", ["run", "command", "state", "started", "outcome"], rows)
    if first and first.score:
        stderr().print(f"best      {first.folder}: {first.score[0]} {first.score[1]:.3f}")
    if len(runs) > 1 and changed:
        stderr().print(f"differ    in {counted(len(changed), 'option')}; ssmtl runs --differences shows them")


def _names(runs: Sequence[RunInfo]) -> list[str]:
    """The folders, without what they all begin with."""
    parts = [run.folder.parts for run in runs]
    same = 0
    while len(runs) > 1 and len({p[: same + 1] for p in parts}) == 1 and all(len(p) > same + 1 for p in parts):
        same += 1
    return [printable(str(Path(*p[same:]))) for p in parts]


def _outcome(run: RunInfo) -> str:
    """The score of a fine-tuning; how many tasks of a pre-training learned."""
    if run.score:
        return f"{run.score[0]} {run.score[1]:.3f}"
    if not run.losses:
        return ""
    learned = sum(verdict == "learned" for _, verdict in run.losses.values())
    return f"{learned} of {counted(len(run.losses), 'task')} learned"
