"""`ssmtl evaluate`: score predicted label maps against labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import config_option, json_option, options_of, path_option, read_options
from ssmtl_toolkit.config import EvaluateConfig
from ssmtl_toolkit.config.scoring import DEFAULTS
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.text import counted


@click.command("evaluate", cls=OnceCommand)
@path_option("--pred", required=True, help="Predictions: a file or a folder.")
@path_option("--label", required=True, help="Labels: a file or a folder.")
@options_of(EvaluateConfig, {"metrics": "metric"})
@config_option
@path_option("--csv", "table_file", help="Write the scores of each scan to this file.")
@path_option("--overlay", help="Draw truth and prediction of each scan into this folder, the worst first.")
@json_option
def command(
    pred: Path,
    label: Path,
    file: Path | None,
    table_file: Path | None,
    overlay: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Files are paired by their paths in the two folders, without suffix.

    The classes are those of --classes, or of the prediction.json that `ssmtl predict` wrote, or else the values found
    in the files. --metric adds to IoU, Dice, HD95 and surface Dice, or replaces the one of its name.

    \b
      ssmtl evaluate --pred out/ --label labels/
      ssmtl evaluate --pred out/ --label labels/ --classes LV=500,RV=600
      ssmtl evaluate --pred out/ --label labels/ --metric surface_dice:tolerance=2
      ssmtl evaluate --pred out/ --label labelled/ --overlay pictures/
    """
    config = read_options(EvaluateConfig, flags, file)
    if table_file is not None and table_file.is_dir():
        raise UsageError(f"{table_file}: is a folder; give --csv the name of a file")
    from ssmtl_toolkit.cli.console import print_json, reporting
    from ssmtl_toolkit.evaluation.evaluate import evaluate  # numpy is imported from here on

    with reporting() as (_, progress):
        scores = evaluate(pred, label, config, overlay=overlay, progress=progress)
    if table_file is not None:
        _write(table_file, scores.summary, scores.metrics)
    if as_json:
        print_json(scores.summary)
    else:
        _report(scores.summary, scores.metrics)


def _write(file: Path, result: dict[str, Any], metrics: Sequence[MetricSpec]) -> None:
    """Write a line for each scan and class; default metrics that were not computed have empty columns."""
    from ssmtl_toolkit.data.files import atomic_write

    scores = dict.fromkeys([*DEFAULTS["labels"], *(metric.name for metric in metrics)])
    columns = ["tp", "fp", "fn", *scores, "penalised"]
    with (
        atomic_write(file, "choose another --csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        rows = csv.writer(stream)
        rows.writerow(["scan", "class", *columns])
        for scan in result["scans"]:
            for name, values in scan["classes"].items():
                rows.writerow([_inert(scan["name"]), _inert(name), *(values.get(column) for column in columns)])


def _inert(text: str) -> str:
    """Keep spreadsheets from taking a name for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _report(result: dict[str, Any], metrics: Sequence[MetricSpec]) -> None:
    """Print the scores of each class and their mean; they are the result, so they go to stdout."""
    from ssmtl_toolkit.cli.console import print_table, stdout

    console = stdout()
    counts = {word: _counts(result, word) for word in ("undefined", "penalised")}
    shown = [word for word, numbers in counts.items() if any(numbers)]
    rows = []
    for i, (name, values) in enumerate(result["classes"].items()):
        scores = [(formatting.number if m.pooled else formatting.spread)(m, values[m.name]) for m in metrics]
        rows.append([name, *scores, *(str(counts[word][i] or "") for word in shown)])
    rows.append(["mean", *(formatting.number(m, result["mean"][m.name]) for m in metrics), *("" for _ in shown)])
    headings = [f"{formatting.heading(m)}{' (pooled)' if m.pooled else ''}" for m in metrics]
    print_table(console, "", ["class", *headings, *shown], rows)
    how = "; ".join(["± is the standard deviation over scans", *formatting.remarks(metrics)])
    console.print(f"{counted(len(result['scans']), 'scan')}; {how}")
    for line in [*formatting.lower_is_better(metrics), *([result["rule"]] if shown else [])]:
        console.print(line)


def _counts(result: dict[str, Any], word: str) -> list[int]:
    """In how many scans each class has no score (`undefined`), or is in only one of truth and prediction."""
    if word == "undefined":
        return [values["dice"]["undefined"] for values in result["classes"].values()]
    return [sum(scan["classes"][name][word] for scan in result["scans"]) for name in result["classes"]]
