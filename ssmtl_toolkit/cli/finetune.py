"""`ssmtl finetune`: a head on a pre-trained backbone, trained on few labelled slices and tested on other patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import Place, folder_options, json_option, options_of, place_of, read_options
from ssmtl_toolkit.config import FinetuneConfig, ResolvedFinetune, explain_missing_plugin
from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.runtime.folder import FINETUNE, dated_folder
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.text import counted


@click.command("finetune", cls=OnceCommand)
@options_of(FinetuneConfig, {"source": "from", "metrics": "metric"})
@folder_options("runs/DATE-TIME-HEAD")
@json_option
def command(
    file: Path | None, out: Path | None, resume: Path | None, cache: Path | None, as_json: bool, **flags: Any
) -> None:
    """Without --from the network is trained from scratch. Scores are those of held-out patients.

    \b
      ssmtl finetune --from runs/first --data labelled/ --baseline scratch
      ssmtl finetune --from runs/first --data labelled/ --slices-per-scan 20
      ssmtl finetune --from runs/first --data labelled/ --folds 5
      ssmtl finetune --from runs/first --data scans/ --head denoising:sigma=0.2
      ssmtl finetune --data labelled/ --backbone unet    # from scratch
    """
    place = place_of(out, resume, file, FINETUNE)
    config = read_options(FinetuneConfig, flags, *place.files)
    with explain_missing_plugin(place.files[-1] if place.files else None):
        resolved = config.resolve()
    launch()
    from ssmtl_toolkit.runtime.interrupt import interrupts

    with interrupts:
        _run(resolved, place, cache, as_json)


def _run(config: ResolvedFinetune, place: Place, cache: Path | None, as_json: bool) -> None:
    from ssmtl_toolkit.cli import folds
    from ssmtl_toolkit.cli.console import logged, print_json, reporting
    from ssmtl_toolkit.downstream.finetune import finetune  # torch is imported from here on

    folder = place.folder or dated_folder(config.head.name)
    with reporting() as (console, progress):
        progress.say(f"data      {config.data}\nhead      {config.head}")
        result = finetune(None, config, out=folder, cache=cache, resume=place.resume, progress=progress)
    if as_json:
        print_json(result.summary)
    else:
        with logged(console, result.folder):
            (_report if config.folds is None else folds.report)(console, result.summary)
        click.echo(result.folder)


def _report(console: Any, summary: dict[str, Any]) -> None:
    """The scores of each arm, and the gain from pre-training."""
    from ssmtl_toolkit.cli.console import print_table

    arms = summary["arms"]
    metrics = formatting.read_metrics(summary["metrics"])
    rows = formatting.score_rows(arms, summary.get("ensemble", {}), metrics)
    print_table(console, "", ["", *map(formatting.heading, metrics)], rows)
    difference = summary.get("difference", {})
    if difference:
        console.print()
        print_table(console, "", *_difference_table(difference, metrics))
    for line in [*formatting.lower_is_better(metrics), *formatting.remarks(metrics)]:
        console.print(line)
    scans, number = summary["scans"], ", ".join(map(str, summary["training_slices"]))
    if len(summary["seeds"]) > 1 and not summary["redrawn"]:
        number = f"the same {summary['training_slices'][0]} in all"
    console.print(
        f"{counted(len(summary['seeds']), 'repetition')}; training slices: {number}; "
        f"{counted(scans['test'], 'test scan')}" + _seen(scans["test_seen_in_pretraining"], scans["test"])
    )
    for line in _unlabelled(summary):
        console.print(line)
    if difference:
        console.print(_over_patients(difference, metrics))
        console.print(difference["verdict"])


def _difference_table(difference: dict[str, Any], metrics: Sequence[MetricSpec]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the gain from pre-training, a row for each metric."""
    headings = ["pretrained - scratch", "difference"]
    rows = [[formatting.heading(m), formatting.difference(m, difference[m.name])] for m in metrics]
    intervals = [difference[m.name]["ci95"] for m in metrics]
    if any(intervals):
        headings.append("95 % CI")
        rows = [[*row, formatting.interval(m, ends)] for row, m, ends in zip(rows, metrics, intervals, strict=True)]
    return headings, rows


def _over_patients(difference: dict[str, Any], metrics: Sequence[MetricSpec]) -> str:
    """How sure one can be of the difference over other patients."""
    metric = next(m for m in metrics if "over_patients" in difference[m.name])
    over = difference[metric.name]["over_patients"]
    ends, mean = over["ci95"], formatting.number(metric, over["mean"], sign=True)
    interval = f"95 % CI {formatting.interval(metric, ends)}" if ends else "too few patients for an interval"
    return f"{formatting.heading(metric)} difference over {over['n']} test patients: {mean}, {interval}"


def _unlabelled(summary: dict[str, Any]) -> list[str]:
    """What was learned from without labels, whether test patients were seen, and what became of pseudo labels."""
    if "unlabelled" not in summary:
        return []
    told = summary["unlabelled"]
    line = f"unlabelled by {told['semi']}: {counted(told['scans'], 'scan')}, {counted(told['slices'], 'slice')}"
    for part in ("validation", "test"):
        if number := told[f"{part}_seen"]:
            line += f"; {counted(number, 'scan')} of {part} patients among them (transductive)"
    if number := told["held_out"]:
        line += f"; {counted(number, 'scan')} of validation or test patients kept from it"
    if told["skipped"]:
        line += f"; {len(told['skipped'])} skipped"
    return [line, *told["doubts"]]


def _seen(number: int | None, total: int) -> str:
    if number is None:
        return ""
    return f", {number} of them seen in pre-training (without labels)" if number else ", none seen in pre-training"
