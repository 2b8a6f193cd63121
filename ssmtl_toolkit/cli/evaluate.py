"""`ssmtl evaluate`: score predicted label maps against labels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.errors import SsmtlError, UsageError

_COLUMNS = ("tp", "fp", "fn", "iou", "dice", "hd95", "surface_dice", "penalised")


@click.command("evaluate", cls=OnceCommand)
@click.option("--pred", type=click.Path(path_type=Path), required=True, help="Predictions: a file or a folder.")
@click.option("--label", type=click.Path(path_type=Path), required=True, help="Labels: a file or a folder.")
@click.option("--classes", metavar="TEXT", help="What the values mean: LV=500,RV=600,LA=420+421.  [default: see above]")
@click.option("--ignore-value", type=click.INT, help="The value in labels that means: nobody annotated this.")
@click.option(
    "--surface/--no-surface", default=None, help="HD95 and surface Dice.  [default: where MONAI is installed]"
)
@click.option("--tolerance", type=click.FLOAT, default=1.0, show_default=True, help="Of surface Dice, in mm.")
@click.option("--ignore-affine", is_flag=True, help="Compare voxel by voxel although the affines differ.")
@click.option(
    "--csv", "table_file", type=click.Path(path_type=Path), help="Write the scores of each scan to this file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(table_file: Path | None, as_json: bool, **options: Any) -> None:
    """Score predicted label maps against labels.

    Files are paired by their paths in the two folders, without suffix. The classes are those of --classes, or of the
    prediction.json that `ssmtl predict` wrote, or else the values found in the files.

    \b
      ssmtl evaluate --pred out/ --label labels/
      ssmtl evaluate --pred out/ --label labels/ --classes LV=500,RV=600 --csv scores.csv
    """
    if table_file is not None and table_file.is_dir():
        raise UsageError(f"{table_file}: is a folder; give --csv the name of a file")
    from ssmtl_toolkit.cli.console import RichProgress, force_utf8, print_json, stderr
    from ssmtl_toolkit.evaluation.evaluate import evaluate  # torch is imported from here on

    force_utf8()
    console = stderr()
    progress = RichProgress(console)
    try:
        result = evaluate(**options, progress=progress)
    finally:
        progress.done()
    if table_file is not None:
        _write(table_file, result)
    if as_json:
        print_json(result)
    else:
        _report(result)


def _write(file: Path, result: dict[str, Any]) -> None:
    """Write a line for each scan and class."""
    from ssmtl_toolkit.data.files import replacing

    try:
        with replacing(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["scan", "class", *_COLUMNS])
            for scan in result["scans"]:
                for name, one in scan["classes"].items():
                    rows.writerow([_inert(scan["name"]), _inert(name), *(one.get(column) for column in _COLUMNS)])
    except OSError as error:
        raise SsmtlError(f"{file}: cannot be written ({error.strerror}); choose another --csv") from error


def _inert(text: str) -> str:
    """Keep spreadsheets from taking a name for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _report(result: dict[str, Any]) -> None:
    """The scores of each class for a person, and their mean; they are the result, so on stdout."""
    from ssmtl_toolkit.cli.console import stdout, table

    console = stdout()
    surface = result["surface"]
    columns = ["class", "IoU (pooled)", "Dice"]
    columns += ["HD95 mm", f"surface Dice ({result['tolerance_mm']:g} mm)"] if surface else []
    per_scan = ["dice", "hd95", "surface_dice"] if surface else ["dice"]
    rows = []
    for name, one in result["classes"].items():
        penalised = sum(scan["classes"][name]["penalised"] for scan in result["scans"])
        counts = [str(count or "") for count in (one["dice"]["undefined"], penalised)]
        rows.append([name, _number(one["iou"], "iou"), *(_spread(one[score], score) for score in per_scan), *counts])
    mean = result["mean"]
    rows.append(["mean", *(_number(mean[score], score) for score in ("iou", *per_scan)), "", ""])
    console.print(table("", [*columns, "undefined", "penalised"], rows))
    console.print(f"{len(result['scans'])} scans; ± is the standard deviation over scans")
    if any("".join(row[-2:]) for row in rows):
        console.print(result["rule"])


def _spread(found: dict[str, Any], score: str) -> str:
    deviation = "" if found["sd"] is None else f" ± {_number(found['sd'], score)}"
    return _number(found["mean"], score) + deviation


def _number(value: float | None, score: str) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if score == "hd95" else f"{value:.4f}"
