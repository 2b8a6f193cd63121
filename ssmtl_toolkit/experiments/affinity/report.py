"""What a comparison of mixes is shown as: tables, sentences, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import Budget
from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.experiments.affinity.comparing import REPEATED, SCORES, Table
from ssmtl_toolkit.experiments.fewshot.report import failures
from ssmtl_toolkit.experiments.table import markdown_table
from ssmtl_toolkit.experiments.writing import as_shown, write_texts
from ssmtl_toolkit.specs import MetricSpec

NAME = "affinity"
HOW = (
    "Gain: to the same network from scratch, fine-tuned in the same way on the same labels, on validation patients; "
    "its 95 % interval is over draws and pre-trainings, crossed. The largest of several gains is too large by chance: "
    "test a mix that you choose on other patients (ssmtl fewshot). Cheap scores see the labels of training patients "
    "only, and are means over pre-trainings."
)
TAU = (
    "Tau: Kendall's tau-b over the mixes, 1: the same order, -1: the opposite; 95 % interval by atanh with variance "
    "0.437 / (n - 4), as if mixes were independent. They share tasks, and gains are uncertain themselves, which lowers "
    f"tau: no score can be expected to do much better than '{REPEATED}', which compares every second draw with the "
    "others. With few mixes intervals are wide; each is one by itself."
)
MATRIX = (
    "Cosine: of the gradients of two losses at the backbone. Lookahead: the share by which the loss of the column "
    "falls in a small step against the gradient of the row's; a negative one rises. Both of the mix of all tasks."
)


def headings(summary: Mapping[str, Any]) -> list[str]:
    """Column headings of the table of mixes."""
    title = formatting.mean_heading(_metric(summary))
    return ["mix", "done", title, "gain", "95 % interval", "up", *(score.title for score in SCORES)]


def rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Its cells, mix by mix."""
    metric, lines = _metric(summary), []
    for mix in summary["mixes"]:
        gain = mix["difference"]
        line = [mix["mix"], f"{mix['done']}/{mix['planned']}", formatting.spread(metric, mix[metric.name])]
        if gain["mean"] is None:
            line += ["", "", ""]
        else:
            line += [formatting.number(metric, gain["mean"], sign=True), formatting.interval(metric, gain["ci95"])]
            line.append(f"{gain['up']}/{gain['draws']}")
        lines.append([*line, *(_number(mix["scores"][score.id], score.digits) for score in SCORES)])
    return lines


def matrix_tables(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and cells of each matrix."""
    found = summary["matrices"]
    if found is None:
        return []
    tables = []
    for key, title, digits in (("cosines", "Cosine", 3), ("lookaheads", "Lookahead", 4)):
        for when in ("start", "end"):
            table: Table = found[key][when]
            cells = [
                [label, *(_number(value, digits) for value in row)]
                for label, row in zip(found["labels"], table, strict=bool(table))
            ]
            if cells:
                tables.append((f"{title} at the {when}", ["", *found["labels"]], cells))
    return tables


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What is shown with the tables: sentences first."""
    texts = [each["sentence"] for each in summary["agreement"]]
    if summary["done"] < summary["planned"]:
        texts.append(
            f"{summary['done']} of {summary['planned']} fine-tunings are done; rerun the command to do the others"
        )
    texts += [*failures(summary["failed"]), *failures(summary["not_scored"])]
    return [*texts, *summary["how"], *formatting.lower_is_better([_metric(summary)])]


def markdown(summary: Mapping[str, Any]) -> str:
    """Tables and remarks as Markdown."""
    patients, budget = summary["patients"], Budget.read(summary["budget"])
    data = (
        f"Data: `{summary['data']}`; patients: {patients['train']} to train on, {patients['scored']} to score "
        f"(validation); {budget.words} labelled; pre-trained for {summary['length']}; recipe {summary['recipe']}."
    )
    texts = ["# Which tasks go together?", data, markdown_table(headings(summary), rows(summary))]
    for title, heads, cells in matrix_tables(summary):
        texts += [f"## {title}", markdown_table(heads, cells)]
    return "\n\n".join([*texts, "\n".join(f"- {text}" for text in remarks(summary))]) + "\n"


def table_csv(summary: Mapping[str, Any]) -> str:
    """A line for each mix."""
    stream, metric = io.StringIO(), summary["metric"]
    writer = csv.writer(stream, lineterminator="\n")
    scores = [score.id for score in SCORES]
    writer.writerow(["mix", "done", "planned", metric, "gain", "gain_low", "gain_high", "up", "draws", *scores])
    for mix in summary["mixes"]:
        gain = mix["difference"]
        low, high = gain["ci95"] or (None, None)
        cells = [mix["mix"], mix["done"], mix["planned"], mix[metric]["mean"], gain["mean"], low, high]
        writer.writerow([*cells, gain["up"], gain["draws"], *(mix["scores"][score] for score in scores)])
    return stream.getvalue()


def write_report(out: Path, summary: dict[str, Any], toml: str) -> None:
    """Write affinity.toml (the options), .md, .csv and .json.

    Raises:
        SsmtlError: the disk is full or not writable.
    """
    tables = [("", headings(summary), rows(summary)), *matrix_tables(summary)]
    summary |= as_shown(tables, remarks(summary))
    texts = {"toml": toml, "md": markdown(summary), "csv": table_csv(summary), "json": json.dumps(summary, indent=1)}
    write_texts(out, NAME, texts)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _metric(summary: Mapping[str, Any]) -> MetricSpec:
    metrics: Sequence[MetricSpec] = formatting.read_metrics(summary["metrics"])
    (metric,) = [each for each in metrics if each.name == summary["metric"]]
    return metric
