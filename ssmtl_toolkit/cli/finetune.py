"""`ssmtl finetune`: a head on a pre-trained backbone, trained on few labelled slices and tested on other patients."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import folder_options, json_option, options_of, read_options, resumed
from ssmtl_toolkit.config import FinetuneConfig, ResolvedFinetune, explain_missing_plugin
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.launch import launch


@click.command("finetune", cls=OnceCommand)
@options_of(FinetuneConfig, {"source": "from"})
@folder_options("runs/DATE-TIME-HEAD")
@json_option
def command(
    file: Path | None, out: Path | None, resume: Path | None, cache: Path | None, as_json: bool, **flags: Any
) -> None:
    """Fine-tune a pre-trained backbone with a head on few labelled slices, and test it on other patients.

    \b
      ssmtl finetune --from runs/first --data labelled/ --baseline scratch
      ssmtl finetune --from runs/first --data labelled/ --slices-per-scan 20
      ssmtl finetune --from runs/first --data scans/ --head denoising:sigma=0.2
      ssmtl finetune --data labelled/ --backbone unet    # from scratch
    """
    if resume and (out or file):
        raise UsageError("--resume continues in its own folder with its own options; leave out --out and --config")
    source = resumed(resume, "finetune.toml") if resume else file
    config = read_options(FinetuneConfig, source, flags)
    with explain_missing_plugin(source):
        resolved = config.resolve()
    launch()
    folder = resume or out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{resolved.head.name}"
    from ssmtl_toolkit.runtime.interrupt import interrupts

    with interrupts:
        _run(resolved, folder, cache, resume is not None, as_json)


def _run(config: ResolvedFinetune, folder: Path, cache: Path | None, resume: bool, as_json: bool) -> None:
    from ssmtl_toolkit.cli.console import RichProgress, force_utf8, print_json, stderr
    from ssmtl_toolkit.downstream.finetune import finetune  # torch is imported from here on

    force_utf8()
    console = stderr()
    progress = RichProgress(console)
    progress.say(f"data      {config.data}\nhead      {config.head}")
    try:
        result = finetune(None, config, out=folder, cache=cache, resume=resume, progress=progress)
    finally:
        progress.done()
    if as_json:
        print_json(result.summary)
    else:
        _report(console, result.summary)
        click.echo(result.folder)


def _report(console: Any, summary: dict[str, Any]) -> None:
    """The scores of each arm, and what pre-training gave."""
    from ssmtl_toolkit.cli.console import table

    arms = summary["arms"]
    metrics = [name for name in next(iter(arms.values())) if name not in {"classes", "noisy"}]
    rows = []
    for arm, found in arms.items():
        rows.append([arm, "mean", *(_spread(found[name], name) for name in metrics)])
        for label, values in found.get("classes", {}).items():
            rows.append(["", label, *(_spread(values[name], name) for name in metrics)])
        if "noisy" in found:
            rows.append(["", "noisy input", *(_number(found["noisy"].get(name), name) for name in metrics)])
    if "difference" in summary:
        difference = summary["difference"]
        rows.append(["difference", "mean", *(_spread(difference[name], name) for name in metrics)])
        if any(difference[name]["ci95"] for name in metrics):
            rows.append(["", "95 % CI", *(_interval(difference[name]["ci95"], name) for name in metrics)])
    console.print(table("", ["", "", *(_HEADINGS[name] for name in metrics)], rows))
    scans, number = summary["scans"], summary["training_slices"]
    console.print(
        f"{len(summary['seeds'])} repetitions; training slices: {', '.join(map(str, number))}; "
        f"{scans['test']} test scans" + _seen(scans["test_seen_in_pretraining"], scans["test"])
    )
    for line in _confidence(summary.get("difference", {}), len(summary["seeds"])):
        console.print(line)


def _confidence(difference: dict[str, Any], repetitions: int) -> list[str]:
    """How sure one can be of the difference, over other patients and over other draws of slices."""
    from ssmtl_toolkit.evaluation.statistics import LEAST_REPETITIONS

    lines = []
    for name, found in difference.items():
        if over := found.get("over_patients"):
            sure = f"95 % CI {_interval(over['ci95'], name)}" if over["ci95"] else "too few patients for an interval"
            lines.append(
                f"{_HEADINGS[name]} difference over {over['n']} test patients: {_number(over['mean'], name)}, {sure}"
            )
    if difference and repetitions < LEAST_REPETITIONS:
        lines.append(
            f"{repetitions} repetitions give no interval; add some by --resume and --seeds {LEAST_REPETITIONS}"
        )
    return lines


_HEADINGS = {
    "iou": "IoU",
    "dice": "Dice",
    "hd95": "HD95 mm",
    "surface_dice": "surface Dice",
    "psnr": "PSNR dB",
    "ssim": "SSIM",
}


def _seen(number: int | None, total: int) -> str:
    if number is None:
        return ""
    return f", {number} of them seen in pre-training (without labels)" if number else ", none seen in pre-training"


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    if metric in {"hd95", "psnr"}:
        return f"{value:.2f}"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def _spread(found: dict[str, Any], metric: str) -> str:
    deviation = "" if found["sd"] is None else f" ± {_number(found['sd'], metric)}"
    return _number(found["mean"], metric) + deviation


def _interval(ends: list[float] | None, metric: str) -> str:
    return "-" if ends is None else f"{_number(ends[0], metric)} to {_number(ends[1], metric)}"
