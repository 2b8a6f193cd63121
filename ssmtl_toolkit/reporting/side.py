"""Several runs of one kind on one page: in what they differ, and what came of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.reporting.charts import Series, colour, curves
from ssmtl_toolkit.reporting.finetuning import ARMS, repetitions
from ssmtl_toolkit.reporting.parts import Chart, Part, Section, Table, Text
from ssmtl_toolkit.reporting.pretraining import labels_of
from ssmtl_toolkit.reporting.records import Record
from ssmtl_toolkit.runtime.folder import METRICS, REPORT
from ssmtl_toolkit.runtime.metriclog import MetricLog

_QUIET = {"report", "keep", "checkpoint_every", "log_every"}  # options that change no result


def sections(records: Sequence[Record], file: Path) -> list[Section]:
    """What several runs show side by side in the page `file`."""
    names = names_of(records)
    links = [_link(record, file) for record in records]
    scores = _tuned(records, names, links) if records[0].kind == "fine-tuning" else _trained(records, names, links)
    drawn = _tuning_curves(records, names) if records[0].kind == "fine-tuning" else _training_curves(records, names)
    return [
        Section("scores", "Scores", scores),
        Section("differences", "What differs", _differences(records, names)),
        Section("curves", "Curves", drawn),
    ]


def names_of(records: Sequence[Record]) -> list[str]:
    """The last parts of their folders that tell them apart."""
    folders = [record.folder.absolute() for record in records]
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _link(record: Record, file: Path) -> str:
    """Where the report of one of them is, seen from the page; "": it has none."""
    report = record.folder.absolute() / REPORT
    if not report.is_file() or report == file.absolute():
        return ""
    return Path(os.path.relpath(report, file.absolute().parent)).as_posix()


def _differences(records: Sequence[Record], names: Sequence[str]) -> list[Part]:
    keys = dict.fromkeys(key for record in records for key in record.options if key not in _QUIET)
    rows = []
    for key in keys:
        values = [_written(record.options.get(key)) for record in records]
        if len(set(values)) > 1:
            rows.append([key, *values])
    versions = [record.summary.get("provenance", {}).get("versions", {}) for record in records]
    for library in dict.fromkeys(name for each in versions for name in each):
        values = [each.get(library, "-") for each in versions]
        if all(versions) and len(set(values)) > 1:
            rows.append([library, *values])
    if not rows:
        return [Text("All options are the same.")]
    return [Table("Options that are not the same in all of them", ["option", *names], rows, prose=True)]


def _written(value: Any) -> str:
    if isinstance(value, list):
        return "  ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _trained(records: Sequence[Record], names: Sequence[str], links: Sequence[str]) -> list[Part]:
    labels = list(dict.fromkeys(label for record in records for label in record.summary.get("tasks", {})))
    rows = []
    for name, record in zip(names, records, strict=True):
        tasks = record.summary.get("tasks", {})
        rows.append([name, *(_verdict(tasks[label]) if label in tasks else "-" for label in labels)])
    return [
        Table(
            "Verdict, loss on held-out slices (or in training) / best trivial answer",
            ["run", *labels],
            rows,
            links=links,
        )
    ]


def _verdict(task: Mapping[str, Any]) -> str:
    means = task["held_out"] or task
    if means.get("loss") is None:
        return str(task["verdict"])
    trivial = f" / {means[means['baseline']]:.4g}" if means.get("baseline") else ""
    return f"{task['verdict']}, {means['loss']:.4g}{trivial}"


def _tuned(records: Sequence[Record], names: Sequence[str], links: Sequence[str]) -> list[Part]:
    texts = dict.fromkeys(text for record in records for text in record.summary.get("metrics", ()))
    metrics = formatting.read_metrics(texts)
    rows, to = [], []
    for name, record, link in zip(names, records, links, strict=True):
        for arm, scores in record.summary.get("arms", {}).items():
            cells = [formatting.spread(m, scores[m.name]) if m.name in scores else "-" for m in metrics]
            rows.append([f"{name}, {arm}", *cells])
            to.append(link)
    caption = (
        "Mean over classes, ± deviation over repetitions; runs are comparable only if their test scans are the same"
    )
    return [Table(caption, ["run", *map(formatting.heading, metrics)], rows, links=to)]


def _training_curves(records: Sequence[Record], names: Sequence[str]) -> list[Part]:
    logs = [MetricLog(record.folder / METRICS) for record in records]
    every = [labels_of(record, log) for record, log in zip(records, logs, strict=True)]
    parts: list[Part] = []
    for label in dict.fromkeys(label for labels in every for label in labels):
        series = []
        for i, (name, log) in enumerate(zip(names, logs, strict=True)):
            series.append(Series(name, log.series(f"{label}/loss"), colour(i)))
            series.append(Series(f"{name}, held out", log.series(f"{label}/held_out"), colour(i), "points"))
        parts.append(_chart(label, series))
    return parts


def _tuning_curves(records: Sequence[Record], names: Sequence[str]) -> list[Part]:
    """The loss of the first repetition of each arm."""
    series = []
    for i, (name, record) in enumerate(zip(names, records, strict=True)):
        for arm, each in repetitions(record).items():
            points = MetricLog(record.folder / each[0] / METRICS).series("fine-tuning/loss")
            series.append(Series(f"{name}, {arm}", points, colour(i), "line" if arm == ARMS[0] else "dashed"))
    return [_chart("Loss of the first repetition", series)]


def _chart(title: str, series: Sequence[Series]) -> Chart:
    known = [one for one in series if one.points]
    ends = "; ".join(f"{one.name} ends at {list(one.points.values())[-1]:.4g}" for one in known)
    return curves(title, known, "step", "loss", f"{title} by step: {ends}.")
