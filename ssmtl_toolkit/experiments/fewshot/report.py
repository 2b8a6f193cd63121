"""What a comparison of few labels is shown as: table, sentences, CSV, and a figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import Budget
from ssmtl_toolkit.evaluation import formatting, statistics
from ssmtl_toolkit.experiments.fewshot.comparing import Line, labels_saved
from ssmtl_toolkit.experiments.fewshot.figure import figure
from ssmtl_toolkit.experiments.table import markdown_table
from ssmtl_toolkit.experiments.writing import as_shown, write_texts
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.text import shortened

HOW = (
    "Mean ± standard deviation over draws of labels and pre-trainings. Difference: to the same network from scratch, "
    "fine-tuned in the same way on the same labels, draw by draw. Its 95 % interval holds for other draws and other "
    "pre-trainings: both are random and crossed (Satterthwaite); with one pre-training it speaks for this one alone. "
    f"None with fewer than {statistics.LEAST_REPETITIONS} draws. Up: draws in which it is better. Labels saved: how "
    "many more the twin needs for the same score, by its own curve; … is beyond the budgets. Each interval is one by "
    "itself: of twenty such, one is wrong by chance. Test patients are the same throughout."
)
"""How the numbers are computed."""

FILES = {"md": "table", "csv": "every score", "json": "all of it", "svg": "curves"}
NAME = "fewshot"


def headings(summary: Mapping[str, Any]) -> list[str]:
    """Column headings of the table."""
    metric, others = _metrics(summary)
    first = ["labels", "method", "done", formatting.mean_heading(metric), "difference", "95 % interval", "up"]
    return [*first, "labels saved", *map(formatting.heading, others)]


def rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Its cells, budget by budget."""
    metric, others = _metrics(summary)
    names = {method["id"]: method["name"] for method in summary["methods"]}
    lines = []
    for cell in summary["cells"]:
        budget, gain = Budget.read(cell["budget"]), cell["difference"]
        line = [budget.words, names[cell["method"]], f"{cell['done']}/{cell['planned']}"]
        line.append(formatting.spread(metric, cell[metric.name]))
        if gain is None or gain["mean"] is None:
            line += ["", "", "", ""]
        else:
            line += [formatting.number(metric, gain["mean"], sign=True), formatting.interval(metric, gain["ci95"])]
            line += [f"{gain['up']}/{gain['draws']}", labels_saved(cell["saved"], budget)]
        known = [cell["also"].get(other.name) for other in others]
        line += [formatting.spread(o, k) if k else "" for o, k in zip(others, known, strict=True)]
        lines.append(line)
    return lines


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What is shown with the table: sentences first."""
    metric, others = _metrics(summary)
    texts = list(summary["sentences"])
    if summary["done"] < summary["planned"]:
        texts.append(
            f"{summary['done']} of {summary['planned']} fine-tunings are done; rerun the command to do the others"
        )
    texts += [_one_draw(budget) for budget in summary["budgets"] if budget == str(summary["patients"]["train"])]
    texts += [*summary["seen"], *failures(summary["failed"])]
    return [*texts, HOW, *formatting.lower_is_better([metric, *others]), *formatting.remarks([metric, *others])]


def _one_draw(budget: str) -> str:
    words = Budget.read(budget).words
    return f"{words} are all that there are to train on: these draws differ by seeds alone, not by labels"


def failures(failed: Mapping[str, str]) -> list[str]:
    """A line for each reason why fine-tunings failed."""
    by_reason: dict[str, list[str]] = {}
    for id, reason in failed.items():
        by_reason.setdefault(reason, []).append(id)
    return [f"failed: {'; '.join(shortened(ids, 3))}: {reason}" for reason, ids in by_reason.items()]


def markdown(summary: Mapping[str, Any]) -> str:
    """The table and the remarks as Markdown."""
    split = summary["patients"]
    data = (
        f"Data: `{summary['data']}`; patients: {split['train']} to train on, {split['scored']} to score "
        f"({summary['score']}); recipe {summary['recipe']}."
    )
    texts = ["# How many labels?", data, markdown_table(headings(summary), rows(summary))]
    return "\n\n".join([*texts, "\n".join(f"- {text}" for text in remarks(summary))]) + "\n"


def table_csv(lines: Sequence[Line]) -> str:
    """A line for each score of each trial."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = ["method", "budget", "unit", "draw", "pretraining", "metric", "class", "value"]
    writer.writerow([*heads, "minutes", "pretraining_minutes"])
    for line in lines:
        trial, shared = line.trial, line.pretraining_minutes
        where = [trial.arm, trial.budget.number, trial.budget.unit, trial.draw, trial.pretraining]
        minutes = [f"{line.minutes:.3f}", "" if shared is None else f"{shared:.3f}"]
        for metric, by_class in line.scores.items():
            writer.writerows([*where, metric, label, value, *minutes] for label, value in by_class.items())
    return stream.getvalue()


def write_report(out: Path, summary: dict[str, Any], lines: Sequence[Line], toml: str) -> None:
    """Write fewshot.toml (the options), .md, .csv, .json and .svg.

    Raises:
        SsmtlError: the disk is full or not writable.
    """
    summary |= as_shown([("", headings(summary), rows(summary))], remarks(summary))
    texts = {"toml": toml, "md": markdown(summary), "csv": table_csv(lines), "json": json.dumps(summary, indent=1)}
    texts["svg"] = figure(summary)
    write_texts(out, NAME, texts)


def _metrics(summary: Mapping[str, Any]) -> tuple[MetricSpec, list[MetricSpec]]:
    """The metric that is compared by, and the others."""
    every = formatting.read_metrics(summary["metrics"])
    (metric,) = [each for each in every if each.name == summary["metric"]]
    return metric, [each for each in every if each != metric]
