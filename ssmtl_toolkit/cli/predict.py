"""`ssmtl predict`: a fine-tuned model on scans, written on the scans' own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.text import printable


@click.command("predict", cls=OnceCommand)
@click.argument("scans", nargs=-1, required=True)
@click.option("--from", "source", type=click.Path(path_type=Path), required=True, help="Run folder of a fine-tuning.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for the predictions.")
@click.option("--head", help="Refuse a model with another head, e.g. denoising.")
@click.option("--probabilities", is_flag=True, help="Write NAME_probabilities.nii.gz too, background first.")
@click.option("--overlay", is_flag=True, help="Write NAME.png too: the labels over the slices.")
@click.option("--largest-component", is_flag=True, help="Keep only the largest connected part of each class.")
@click.option("--volume", type=click.IntRange(0), help="Which volume to take of 4-D files.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Slices in a batch.")
@click.option(
    "--existing",
    type=click.Choice(["error", "skip", "overwrite"]),
    default="error",
    show_default=True,
    help="What to do with predictions that already exist; skip: only those that this model wrote whole.",
)
@click.option("--accelerator", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--precision", type=click.Choice(["auto", "32", "bf16"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(scans: tuple[str, ...], source: Path, as_json: bool, **options: Any) -> None:
    """Use a fine-tuned model on SCANS, files or folders; NAME.nii.gz lies on the grid of scan NAME.

    \b
      ssmtl predict --from runs/ft scan.nii.gz more/ -o out/ --overlay
      ssmtl predict --from runs/ft/pretrained-2 images/ -o out/ --probabilities --largest-component
    """
    launch()
    from ssmtl_toolkit.runtime.interrupt import interrupts

    with interrupts:
        _run(scans, source, as_json, options)


def _run(scans: tuple[str, ...], source: Path, as_json: bool, options: dict[str, Any]) -> None:
    from ssmtl_toolkit.cli.console import RichProgress, force_utf8, print_json, stderr
    from ssmtl_toolkit.downstream.predict import predict  # torch is imported from here on

    force_utf8()
    console = stderr()
    progress = RichProgress(console)
    try:
        result = predict(source, scans, progress=progress, **options)
    finally:
        progress.done()
    if as_json:
        print_json(result)
    else:
        for file in result["written"]:
            click.echo(file)
        per_slice = 1000 * result["seconds"] / max(result["slices"], 1)
        left = f", {len(result['left_out'])} left out" if result["left_out"] else ""
        speed = f", {result['slices']} slices, {per_slice:.1f} ms a slice" if result["slices"] else ""
        kinds = [kind for kind in ("probabilities", "overlay") if options[kind]]
        out = f" -> {printable(result['out'])} ({', '.join(['predictions', *kinds])})" if result["written"] else ""
        console.print(f"{len(result['written'])} scans{out}{speed}{left}")
    if result["failed"]:
        listed = [item["reason"] for item in result["failed"][:20]]
        number = len(result["failed"])
        raise DataError("\n".join([f"{number} of {number + len(result['written'])} scans could not be used:", *listed]))
