"""`ssmtl run`: pre-train a backbone on unlabelled scans."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import options_of, resumed
from ssmtl_toolkit.config import RunConfig, RunSpecs, naming_what_is_missing
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.launch import launch


@click.command("run", cls=OnceCommand)
@options_of(RunConfig, {"tasks": "task", "head": "for"})
@click.option("--config", "file", type=click.Path(path_type=Path), help="TOML file with options; flags win over it.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/DATE-TIME-BACKBONE]")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with the run in this folder.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for prepared slices.  [default: user's cache]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    file: Path | None, out: Path | None, resume: Path | None, cache: Path | None, as_json: bool, **flags: Any
) -> None:
    """Pre-train a backbone on the slices of unlabelled scans.

    Without --data it trains on the embedded phantom. Repeat --task for several tasks or distances:

    \b
      ssmtl run --data scans/ --backbone unet --task reconstruct_prev:t=2 --task reconstruct_next:t=2
      ssmtl run --data scans/ --backbone fcn:encoder=resnet50 --task moco_v2
      ssmtl run --config runs/first/run.toml
    """
    config, specs = _configure(file, out, resume, flags)
    first = launch(config.devices, config.nodes).rank == 0
    from ssmtl_toolkit.runtime.interrupt import interrupts

    with interrupts:
        _run(config, specs, resume or out, cache, resume is not None, as_json, first)


def _run(
    config: RunConfig,
    specs: RunSpecs,
    folder: Path | None,
    cache: Path | None,
    resume: bool,
    as_json: bool,
    first: bool,
) -> None:
    from ssmtl_toolkit.cli.console import RichProgress, force_utf8, print_json, stderr
    from ssmtl_toolkit.pretraining.pretrain import pretrain  # torch is imported from here on
    from ssmtl_toolkit.pretraining.verdict import DivergedError
    from ssmtl_toolkit.runtime.interrupt import InterruptedRunError
    from ssmtl_toolkit.runtime.progress import Progress

    force_utf8()
    console = stderr()
    progress = RichProgress(console) if first else Progress()
    if first:
        _announce(console, config, specs)
    folder = folder or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{specs.backbone.name}"
    diverged: DivergedError | None = None
    try:
        summary = pretrain(config, out=folder, cache=cache, resume=resume, progress=progress).summary
    except DivergedError as error:  # its files are written, and shown like those of any run
        diverged, summary = error, error.summary
    except InterruptedRunError as error:
        if first:
            raise
        raise click.exceptions.Exit(error.exit_code) from None  # the first process has said it
    finally:
        progress.done()
    if first and as_json:
        print_json(summary)
    elif first:
        _report(console, summary)
    if diverged:
        raise diverged


def _configure(
    file: Path | None, out: Path | None, resume: Path | None, flags: dict[str, Any]
) -> tuple[RunConfig, RunSpecs]:
    """Options from the file or the resumed run, and the flags over them."""
    if resume and (out or file):
        raise UsageError("--resume goes on in its own folder with its own options; leave out --out and --config")
    source = resumed(resume, "run.toml") if resume else file
    options = RunConfig.read(source) if source else {}
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    for name, other in (("epochs", "steps"), ("steps", "epochs")):
        if name in given and other not in given:
            options.pop(other, None)
    RunConfig.of(options, str(source))
    with naming_what_is_missing(source):
        return RunConfig.of({**options, **given}).resolve()


def _announce(console: Any, config: RunConfig, specs: RunSpecs) -> None:
    name = specs.dataset.name
    console.print(
        f"data      {specs.dataset}"
        + (" (the embedded phantom, made at first use; --data DIR for your own)" if name == "phantom" else "")
    )
    console.print(f"backbone  {specs.backbone}")
    console.print("tasks     " + "  ".join(str(task) for task in specs.tasks))
    length = f"{config.steps} steps" if config.steps else f"{config.epochs} epochs"
    console.print(f"training  {length}, batch {config.batch_size}, {config.size} x {config.size} pixels")


def _report(console: Any, summary: dict[str, Any]) -> None:
    """The end of a run for a person: what each task learned, what was left out, where it lies, what to do next."""
    from ssmtl_toolkit.cli.console import table

    rows = []
    for label, task in summary["tasks"].items():
        baseline = task.get(task["baseline"]) if task["baseline"] else None
        shown_apart = {"loss", "baseline", task["baseline"], "verdict", "because"}
        others = [f"{k} {v:.4g}" for k, v in task.items() if k not in shown_apart]
        shown = "" if baseline is None else f"{baseline:.4f} ({task['baseline']})"
        loss = "no pairs" if task["loss"] is None else f"{task['loss']:.4f}"
        rows.append([label, loss, shown, " ".join(others)])
    console.print(table("", ["task", "loss", "without learning", "also"], rows))
    for label, task in summary["tasks"].items():
        console.print(f"{label}: {task['verdict']}: {task['because']}")
    used, left_out = summary["scans"]["used"], summary["scans"]["left_out"]
    console.print(
        f"{summary['steps']} steps ({summary['epochs']} epochs), {summary['images_per_second']} images/s, "
        f"{summary['seconds']:.0f} s on {summary['device']}; {summary['slices']} slices of {used} scans"
        + (f", {len(left_out)} left out:" if left_out else "")
    )
    for item in left_out[:10]:
        console.print(f"  {item['reason'] if item['scan'] in item['reason'] else item['scan'] + ': ' + item['reason']}")
    if len(left_out) > 10:
        console.print(f"  … and {len(left_out) - 10} more, all in {summary['run']}/summary.json")
    click.echo(summary["run"])
    console.print(
        f"backbone  {summary['run']}/backbone.safetensors\nagain     ssmtl run --config {summary['run']}/run.toml"
    )
