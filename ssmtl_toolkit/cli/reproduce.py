"""`ssmtl reproduce`: the paper's tables, each an experiment that comes with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.experiment import read_as_asked, row_option, run_experiments, shared_options
from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import did_you_mean

TABLES = Path(__file__).parents[1] / "experiments" / "paper"


@click.command("reproduce", cls=OnceCommand)
@click.argument("names", nargs=-1, metavar="[TABLE]... | all")
@row_option("--list", "list_only", is_flag=True, help="List the tables and their rows.")
@shared_options
def command(
    names: Sequence[str],
    list_only: bool,
    out: Path | None,
    rows: Sequence[str],
    track: Sequence[str],
    report: bool,
    cache: Path | None,
    cluster: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Every row is pre-trained, fine-tuned and tested; work shared by rows and tables is done once.

    Rerun the command to resume; processes given the same --out, each on its GPU, share the work.

    \b
      ssmtl reproduce --list
      ssmtl reproduce table2 table3 --data mmwhs:/data/mmwhs --out repro/
      ssmtl reproduce all --data phantom --quick
    """
    known = {file.stem: file for file in sorted(TABLES.glob("[!_]*.toml"), key=_in_print)}
    wrong = next((name for name in names if name not in known and name != "all"), None)
    if wrong is not None:
        raise UsageError(f"no table {wrong!r}{did_you_mean(wrong, known)} (known: {', '.join(known)}, all)")
    chosen = list(known) if "all" in names or (list_only and not names) else list(dict.fromkeys(names))
    if list_only:
        _list([known[name] for name in chosen], as_json, how)
        return
    if not chosen:
        raise UsageError(f"which table? give one or more of {', '.join(known)}, or all")
    if not how["data"]:
        raise UsageError("--data is needed: mmwhs:DIR for the paper's own, phantom, or a folder of labelled scans")
    if rows and len(chosen) > 1:
        raise UsageError("--row belongs to one table; give only that table")
    experiments = [read_as_asked(known[name], **how) for name in chosen]
    folder = out or Path("runs") / ("reproduce-quick" if how["quick"] else "reproduce")
    options = {"rows": rows, "track": track, "report": report, "cluster": cluster}
    run_experiments(experiments, folder, options, cache, as_json)


def _in_print(file: Path) -> tuple[bool, str]:
    return file.stem.startswith("fig"), file.stem


def _list(files: Sequence[Path], as_json: bool, how: dict[str, Any]) -> None:
    """Show what each table compares."""
    from ssmtl_toolkit.cli.console import print_json, stdout, table

    experiments = [read_as_asked(file, **{**how, "data": how["data"] or ("phantom",)}) for file in files]
    if as_json:
        print_json({resolved.name: _about(resolved) for resolved in experiments})
        return
    console = stdout()
    for resolved in experiments:
        console.print(f"{resolved.name}  {resolved.experiment.title}")
        cells = [[f"  {job.id}", job.name, _tasks(job), *_lengths(job)] for job in resolved.jobs]
        console.print(table("", ["  row", "", "pretext tasks", "pre-training", "fine-tuning"], cells))
        console.print()


def _about(resolved: Any) -> dict[str, Any]:
    return {
        "title": resolved.experiment.title,
        "rows": [{"id": job.id, "name": job.name, "published": dict(job.published)} for job in resolved.jobs],
    }


def _tasks(job: Any) -> str:
    return "" if job.pretrain is None else " ".join(str(task) for task in job.pretrain.tasks)


def _lengths(job: Any) -> list[str]:
    run = job.pretrain
    length = "" if run is None else f"{run.steps} steps" if run.steps else f"{job.snapshot or run.epochs} epochs"
    return [length, f"{job.finetune.seeds} x {job.finetune.steps} steps"]
