"""`ssmtl runs`: the runs in a folder, how far they are, which is best, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import PATH
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.text import clipped, counted, printable

if TYPE_CHECKING:
    from ssmtl_toolkit.runtime.overview import RunInfo

_LONGEST = 24  # characters of an option's value


@click.command("runs", cls=OnceCommand)
@click.argument("folders", metavar="[DIR]...", nargs=-1, type=PATH)
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
    cells = [[run.state, run.started[:10], _outcome(run)] for run in runs]
    rows = [[name, *more] for name, more in zip(names, cells, strict=True)]
    print_table(stdout(), "", ["run", "state", "started", "outcome"], rows)
    if first:
        stderr().print(f"best      {printable(first.folder)}: {_outcome(first)}")
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
    """The scores of a fine-tuning; how many tasks of a pre-training learned; what it is while it has neither."""
    if run.scores:
        title, values = _printed(run)
        if len(values) == 2:
            return f"{title} {values[0]} (from scratch {values[1]})"
        return f"{title} {values[0]}{' from scratch' if 'scratch' in run.scores else ''}"
    if not run.losses:
        return {"run": "pre-training", "finetune": "fine-tuning"}.get(run.command, run.command)
    learned = sum(verdict == "learned" for _, verdict in run.losses.values())
    return f"{learned} of {counted(len(run.losses), 'task')} learned"


def _printed(run: RunInfo) -> tuple[str, list[str]]:
    """What the scores are called, and each; by its name alone if the metric is not installed."""
    from ssmtl_toolkit.evaluation.formatting import mean_title, number, read_metrics

    try:
        metric = read_metrics([run.metric])[0]
    except SsmtlError:
        return printable(run.metric), [f"{mean:.3f}" for mean in run.scores.values()]
    return mean_title(metric), [number(metric, mean) for mean in run.scores.values()]
