"""`ssmtl predict`: fine-tuned models on scans, written on the scans' own grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import config_option, json_option, options_of, path_option, read_options
from ssmtl_toolkit.config import PredictConfig
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.text import counted, printable, shortened

if TYPE_CHECKING:
    from ssmtl_toolkit.downstream.predicted import Predicted


@click.command("predict", cls=OnceCommand)
@click.argument("scans", nargs=-1, metavar="SCANS...")
@path_option("--from", "source", required=True, help="Run folder of a fine-tuning, or of one repetition.")
@path_option("-o", "--out", required=True, help="Folder for the predictions.")
@options_of(PredictConfig, {})
@config_option
@path_option("--cache", help="Folder for digests of scans.  [default: user's cache]")
@json_option
def command(
    scans: tuple[str, ...],
    source: Path,
    out: Path,
    file: Path | None,
    cache: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """SCANS are files, folders or datasets by name; the prediction for the scan NAME is NAME.nii.gz.

    Of a fine-tuning with several repetitions all models predict together: the mean of their probabilities.

    \b
      ssmtl predict --from runs/ft scan.nii.gz more/ -o out/ --overlay
      ssmtl predict --from runs/ft/pretrained-2 images/ -o out/ --probabilities
    """
    config = read_options(PredictConfig, flags, file)
    if not scans:
        taken = flags["largest_component"] not in (None, "all", "none")
        hint = f"; before a scan write --largest-component=all, not {flags['largest_component']!r}" if taken else ""
        raise UsageError(f"no scan is given: SCANS are files, folders or datasets by name{hint}")
    launch()
    from ssmtl_toolkit.runtime.interrupt import interrupts

    with interrupts:
        _run(scans, source, config, out, cache, as_json)


def _run(
    scans: tuple[str, ...], source: Path, config: PredictConfig, out: Path, cache: Path | None, as_json: bool
) -> None:
    from ssmtl_toolkit.cli.console import print_json, reporting
    from ssmtl_toolkit.downstream.predict import predict  # torch is imported from here on

    with reporting() as (console, progress):
        result = predict(source, scans, config, out=out, cache=cache, progress=progress)
    if as_json:
        print_json(result.summary)
    else:
        for file in result.written:
            click.echo(file)
        console.print(_in_words(result, config))
    if result.failed:
        head = f"{len(result.failed)} of {len(result.failed) + len(result.written)} scans could not be used"
        if not result.written:  # the reasons stand right above
            raise DataError(f"{head}, as noted")
        raise DataError("\n".join([f"{head}:", *shortened((item.reason for item in result.failed), 20)]))


def _in_words(result: Predicted, config: PredictConfig) -> str:
    """What was written, how fast, and how many scans were skipped."""
    words = counted(len(result.written), "scan")
    if result.written:
        kinds = [kind for kind in ("probabilities", "overlay") if getattr(config, kind)]
        words += f" -> {printable(result)} ({', '.join(['predictions', *kinds])})"
    if result.slices:
        words += f", {result.slices} slices, {1000 * result.seconds / result.slices:.1f} ms a slice"
    return words + (f", {len(result.skipped)} skipped" if result.skipped else "")
