"""`ssmtl run`: pre-train a backbone on unlabelled scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import (
    Place,
    folder_options,
    json_option,
    options_of,
    path_option,
    place_of,
    read_options,
)
from ssmtl_toolkit.config import ResolvedRun, RunConfig, explain_missing_plugin
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.runtime.folder import BACKBONE, CONFIG, SUMMARY, dated_folder
from ssmtl_toolkit.sources import Several
from ssmtl_toolkit.text import counted, printable, shortened


@click.command("run", cls=OnceCommand)
@options_of(RunConfig, {"tasks": "task", "head": "for", "source": "from"})
@folder_options("runs/DATE-TIME-BACKBONE")
@path_option("--replay", help="Repeat the step that ended the run in this folder, and say what goes bad first.")
@json_option
def command(
    replay: Path | None,
    file: Path | None,
    out: Path | None,
    resume: Path | None,
    cache: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Without --data it trains on the embedded phantom. Repeat --task for several tasks or distances:

    \b
      ssmtl run --data scans/ --task reconstruct_prev:t=2 --task slice_siam:t=2
      ssmtl run --data scans/ --backbone fcn:encoder=resnet50 --task moco_v2
      ssmtl run --config runs/first/run.toml
      ssmtl run --from runs/first --data other-scans/ --task slice_siam
    """
    if replay is not None:
        given = {**flags, "config": file, "out": out, "resume": resume}
        _replay(replay, as_json, [name for name, value in given.items() if value not in (None, ())])
        return
    place = place_of(out, resume, file, CONFIG)
    config = read_options(RunConfig, flags, *place.files)
    with explain_missing_plugin(place.files[-1] if place.files else None):
        resolved = config.resolve()
    first = launch(resolved.devices, resolved.nodes).rank == 0
    from ssmtl_toolkit.runtime.interrupt import interrupts

    with interrupts:
        _run(resolved, place, cache, as_json, first)


def _replay(place: Path, as_json: bool, given: list[str]) -> None:
    """Show what of a kept step is not finite."""
    if given:
        raise UsageError(f"--replay repeats a step with the options of its run; omit --{given[0].replace('_', '-')}")
    from ssmtl_toolkit.cli.console import print_json
    from ssmtl_toolkit.pretraining.replay import replay

    found = replay(place)
    if as_json:
        print_json(found)
        return
    click.echo(f"step {found['step']}")
    for label, loss in found["losses"].items():
        click.echo(f"  {label}: loss {loss}")
    click.echo(f"not finite first: {found['first']}")


def _run(
    config: ResolvedRun,
    place: Place,
    cache: Path | None,
    as_json: bool,
    first: bool,
) -> None:
    from ssmtl_toolkit.cli.console import logged, print_json, reporting
    from ssmtl_toolkit.pretraining.pretrain import pretrain  # torch is imported from here on
    from ssmtl_toolkit.pretraining.verdict import DivergedError
    from ssmtl_toolkit.runtime.heartbeat import LostRankError
    from ssmtl_toolkit.runtime.interrupt import InterruptedRunError

    folder = place.folder or dated_folder(config.backbone.name)
    diverged: DivergedError | None = None
    with reporting(first) as (console, progress):
        if first:
            _announce(console, config)
        try:
            summary = pretrain(config, out=folder, cache=cache, resume=place.resume, progress=progress).summary
        except DivergedError as error:  # its files are written, and shown like those of any run
            diverged, summary = error, error.summary
        except (InterruptedRunError, LostRankError) as error:
            if error.speaks if isinstance(error, LostRankError) else first:
                raise
            raise click.exceptions.Exit(error.exit_code) from None  # another process has reported it
    if first and as_json:
        print_json(summary)
    elif first:
        with logged(console, folder):
            _report(console, summary)
    if diverged:
        raise diverged


def _announce(console: Any, config: ResolvedRun) -> None:
    name = config.data.name
    sources = config.data.of if isinstance(config.data, Several) else (config.data,)
    console.print(
        f"data      {'  '.join(map(str, sources))}"
        + (" (the embedded phantom, created on first use; --data DIR for your own)" if name == "phantom" else "")
    )
    inherited = config.source is not None and "size" not in config.model_fields_set
    if config.source is not None:
        console.print(f"from      {printable(config.source)}")
    if config.source is None or "backbone" in config.model_fields_set:
        console.print(f"backbone  {config.backbone}")
    console.print("tasks     " + "  ".join(str(task) for task in config.tasks))
    length = counted(config.steps, "step") if config.steps else counted(config.epochs, "epoch")
    patients = f" of {config.patients_per_batch} patients" if config.patients_per_batch else ""
    pixels = "" if inherited else f", {config.size} x {config.size} pixels"
    console.print(f"training  {length}, batch {config.batch_size}{patients}{pixels}")


def _report(console: Any, summary: dict[str, Any]) -> None:
    """The end of a run for a person: what each task learned, what was skipped, where the files are, what to do next."""
    from ssmtl_toolkit.cli.console import table

    held_out = any(task["held_out"] for task in summary["tasks"].values())
    columns = ["task", "loss", *(["held out"] if held_out else []), "without learning", "also"]
    rows = [_row(label, task, held_out) for label, task in summary["tasks"].items()]
    console.print(table("", columns, rows))
    for label, task in summary["tasks"].items():
        for word, because in {task["verdict"]: task["because"], **task["warnings"]}.items():
            console.print(f"{label}: {word}: {because}")
    if summary["probe"]:
        from ssmtl_toolkit.pretraining.best import told

        console.print(f"{told(summary['probe'])}; ssmtl finetune --from {summary['run']} starts from the best")
    used, skipped = summary["scans"]["used"], summary["scans"]["skipped"]
    console.print(
        f"{counted(summary['steps'], 'step')} ({summary['epochs']} epochs), {summary['images_per_second']} images/s, "
        f"{summary['seconds']:.0f} s on {summary['device']}; {summary['slices']} slices of {counted(used, 'scan')}"
        + (f", {len(skipped)} skipped:" if skipped else "")
    )
    reasons = [i["reason"] if i["scan"] in i["reason"] else f"{i['scan']}: {i['reason']}" for i in skipped]
    for line in shortened(reasons, 10, f", all in {summary['run']}/{SUMMARY}"):
        console.print(f"  {line}")
    click.echo(summary["run"])
    console.print(f"backbone  {summary['run']}/{BACKBONE}\nagain     ssmtl run --config {summary['run']}/{CONFIG}")


def _row(label: str, task: dict[str, Any], held_out: bool) -> list[str]:
    """A task's losses: on the slices trained on, on the held-out ones if there are any, and of the best trivial answer.

    That answer is the one for the held-out slices, if there are any.
    """
    others = [f"{k} {v:.4g}" for k, v in task.items() if isinstance(v, float) and k not in {"loss", task["baseline"]}]
    compared = task["held_out"] or task
    best = compared["baseline"]
    without = f"{compared[best]:.4f} ({best})" if best else ""
    loss = "no pairs" if task["loss"] is None else f"{task['loss']:.4f}"
    apart = [f"{task['held_out']['loss']:.4f}" if task["held_out"] else ""] if held_out else []
    return [label, loss, *apart, without, " ".join(others)]
