"""The table of an experiment: ours beside published values, and the gain over the same network from scratch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config.finetune import STARTING
from ssmtl_toolkit.config.scoring import DEFAULTS
from ssmtl_toolkit.evaluation import formatting, statistics
from ssmtl_toolkit.evaluation.formatting import difference, interval, number, spread
from ssmtl_toolkit.experiments.definition import Job, ResolvedExperiment
from ssmtl_toolkit.experiments.figure import figure
from ssmtl_toolkit.experiments.writing import as_shown, write_texts
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec

HOW = (
    "Ours: mean ± standard deviation over repetitions of the fine-tuning, each with training slices of its own, which "
    "all rows share; one pre-training. Gain: difference to the row from scratch with the same network, slices and "
    "steps, paired by repetition, and its 95 % interval (Student's t over repetitions; none with fewer than "
    f"{statistics.LEAST_REPETITIONS})."
)
"""How the numbers of a table are computed."""

ENSEMBLE = (
    "Ensemble: the models of all repetitions predict each test scan together, as ssmtl predict uses them; this is one "
    "value, without deviation."
)
"""What the table of ensembles shows."""

_LOADED = {"source", "split", "seeds", "encoder_lr", "decoder_lr", *STARTING}
"""Options of fine-tuning in which a row may differ from the one from scratch that it is compared with."""


def compare(
    resolved: ResolvedExperiment, results: Mapping[str, Mapping[str, Any]], more_reasons: Sequence[str] = ()
) -> dict[str, Any]:
    """Put the rows together; `results` holds for each job the summaries of its runs, or why it failed.

    `more_reasons` adds to why published values are not comparable.
    """
    rows = [_row(job, results[job.id]) for job in resolved.jobs]
    for job, row in zip(resolved.jobs, rows, strict=True):
        scratch = next((r for j, r in zip(resolved.jobs, rows, strict=True) if _is_scratch_of(j, job)), None)
        row["gain"] = _gain(row, scratch) if scratch else None
    done = [row for row in rows if row["columns"]]
    ours = list(dict.fromkeys(column for row in done for column in row["columns"]))
    published = list(dict.fromkeys(column for row in rows for column in row["published"]))
    metric = _metric(resolved.jobs[0])
    because = [*resolved.not_comparable_because, *more_reasons]
    return {
        "experiment": resolved.name,
        "title": resolved.experiment.title,
        "data": str(resolved.dataset),
        "comparable": not because,
        "not_comparable_because": because,
        "metric": metric.name,
        "mean": formatting.mean_title(metric),
        "metrics": _used(results[job.id]["finetune"] for job in resolved.jobs),
        "columns": [*ours, *(column for column in published if column not in ours)],
        "rows": rows,
        "how": HOW,
    }


def _is_scratch_of(scratch: Job, job: Job) -> bool:
    ours, theirs = (compared.finetune.model_dump(mode="json", exclude=_LOADED) for compared in (job, scratch))
    return ours == theirs and scratch.pretrain is None and job.pretrain is not None


def _metric(job: Job) -> MetricSpec:
    """The metric that rows are compared by."""
    return registry().resolve(MetricSpec, DEFAULTS[job.output][0])


def _used(summaries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics of all fine-tunings, as texts, each name once."""
    texts = [text for tuned in summaries for text in tuned.get("metrics", ())]
    return list({text.partition(":")[0]: text for text in reversed(texts)}.values())[::-1]


def _row(job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    tuned, run, metric = result["finetune"], result["pretrain"], _metric(job)
    status = (
        "failed" if result["failed"] else "done" if len(tuned.get("seeds", ())) >= job.finetune.seeds else "missing"
    )
    row: dict[str, Any] = {
        "id": job.id,
        "name": job.name,
        "status": status,
        "reason": result["failed"],
        "epochs": job.snapshot,
        "published": dict(job.published),
        "columns": {},
        "metric": metric.name,
    }
    if status != "done":
        return row
    arm = "scratch" if job.pretrain is None else "pretrained"
    scores, seeds = tuned["arms"][arm], job.finetune.seeds
    values = {label: scored[metric.name]["values"] for label, scored in scores.get("classes", {}).items()}
    values[formatting.mean_title(metric)] = scores[metric.name]["values"]
    columns = {column: statistics.series(numbers[:seeds]) for column, numbers in values.items()}
    for column, entry in columns.items():
        known, mean = job.published.get(column), entry["mean"]
        entry |= {"published": known, "difference": None if known is None or mean is None else mean - known}
    return row | {
        "columns": columns,
        "also": {name: statistics.series(scores[name]["values"][:seeds]) for name in _others(metric, scores)},
        "input": scores.get("noisy", {}).get(metric.name),
        "ensemble": _ensemble(tuned, arm, metric) if len(tuned["seeds"]) == seeds else None,
        "test_scans": tuned["scans"]["test"],
        "training_slices": tuned["training_slices"][:seeds],
        "finetune": {"folder": tuned["run"], "training": tuned["training"][arm][:seeds]},
        "pretrain": {"folder": run["run"], "steps": run["steps"], "seconds": run["seconds"]} if run else None,
    }


def _ensemble(tuned: Mapping[str, Any], arm: str, metric: MetricSpec) -> dict[str, Any] | None:
    """The scores of the models of all repetitions together: by column as in the row, and by the other metrics."""
    scores = tuned.get("ensemble", {}).get(arm)
    if scores is None:
        return None
    columns = {label: scored[metric.name]["mean"] for label, scored in scores.get("classes", {}).items()}
    columns[formatting.mean_title(metric)] = scores[metric.name]["mean"]
    also = {name: scores[name]["mean"] for name in _others(metric, scores)}
    return {"models": len(scores["models"]), "columns": columns, "also": also}


def _others(metric: MetricSpec, scores: Mapping[str, Any]) -> list[str]:
    """The names of the metrics that are shown beside the one that rows are compared by."""
    return [name for name in scores if name not in {metric.name, "classes", "noisy", "models"}]


def _gain(row: Mapping[str, Any], scratch: Mapping[str, Any]) -> dict[str, Any] | None:
    if not (row["columns"] and scratch["columns"]):
        return None
    metric = _compared_by(row)
    mean = formatting.mean_title(metric)
    ours, theirs = (compared["columns"][mean]["values"] for compared in (row, scratch))
    both = min(len(ours), len(theirs))
    gain = statistics.paired(ours[:both], theirs[:both])
    return {"over": scratch["id"], **gain, "verdict": statistics.verdict(gain, metric)}


def _compared_by(summary: Mapping[str, Any]) -> MetricSpec:
    """The metric that a row, or all of them, are compared by."""
    (metric,) = formatting.read_metrics([summary["metric"]])
    return metric


def headings(summary: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Column headings of the table of means and of that by class."""
    published = "published" if summary["comparable"] else "published*"
    metric = _compared_by(summary)
    also = map(formatting.heading, _also(summary))
    has = any(row["published"] for row in summary["rows"])
    compared = [published, "difference"] if has else []
    first = ["", formatting.mean_heading(metric), *compared, "gain over scratch", "95 % interval", *also]
    classes = [column for column in summary["columns"] if column != formatting.mean_title(metric)]
    return first, ["", *(classes if len(classes) > 1 else [])]


def _also(summary: Mapping[str, Any]) -> list[MetricSpec]:
    """The other metrics that some row has."""
    names = {name for row in summary["rows"] for name in row.get("also", ())}
    return [metric for metric in formatting.read_metrics(summary["metrics"]) if metric.name in names]


def lines(summary: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """The cells of both tables, row by row."""
    metric, others = _compared_by(summary), _also(summary)
    has = any(row["published"] for row in summary["rows"])
    mean = formatting.mean_title(metric)
    first, second = [], []
    for row in summary["rows"]:
        score, gain = row["columns"].get(mean), row.get("gain")
        known = row["published"].get(mean)
        cells = [row["name"], spread(metric, score) if score else row["status"]]
        if has:
            cells += [number(metric, known), number(metric, score["difference"] if score else None, sign=True)]
        cells += [difference(metric, gain), interval(metric, gain["ci95"])] if gain else ["", ""]
        also = row.get("also", {})
        first.append([*cells, *(spread(other, also[other.name]) if other.name in also else "" for other in others)])
        by_class = []
        for column in headings(summary)[1][1:]:
            known = row["published"].get(column)
            shown = spread(metric, row["columns"][column]) if column in row["columns"] else number(metric, None)
            by_class.append(shown if known is None else f"{shown} ({number(metric, known)})")
        second.append([row["name"], *by_class])
    return first, second


def ensembles(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of ensembles; no cells if no row has one."""
    metric, others = _compared_by(summary), _also(summary)
    heads = ["ensemble", "models", formatting.mean_heading(metric), *map(formatting.heading, others)]
    cells = []
    for row in summary["rows"]:
        if scores := row.get("ensemble"):
            numbers = [number(metric, scores["columns"][formatting.mean_title(metric)])]
            numbers += [number(other, scores["also"].get(other.name)) for other in others]
            cells.append([row["name"], str(scores["models"]), *numbers])
    return heads, cells


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What must be shown with the table."""
    texts = [HOW]
    if not summary["comparable"] and any(row["published"] for row in summary["rows"]):
        because = ", ".join(summary["not_comparable_because"])
        texts.insert(0, f"* Published values are NOT COMPARABLE with ours here: {because}.")
    noisy = next((row["input"] for row in summary["rows"] if row.get("input") is not None), None)
    if noisy is not None:
        metric = _compared_by(summary)
        texts.append(
            f"The noisy input itself has a {formatting.title(metric)} of {number(metric, noisy)} {metric.unit}."
        )
    if ensembles(summary)[1]:
        texts.append(ENSEMBLE)
    texts += [*formatting.lower_is_better(_also(summary)), *formatting.remarks(_also(summary)), *_verdicts(summary)]
    texts += [f"{row['name']}: failed: {row['reason']}" for row in summary["rows"] if row["status"] == "failed"]
    return texts


def _verdicts(summary: Mapping[str, Any]) -> list[str]:
    """A verdict for each row whose gain has an interval; without one in any row, why there is none, once."""
    gains = [(row["name"], row["gain"]) for row in summary["rows"] if row.get("gain")]
    known = [f"{name}: {gain['verdict']}" for name, gain in gains if gain["ci95"]]
    return known or list(dict.fromkeys(gain["verdict"] for _, gain in gains))


def markdown(summary: Mapping[str, Any]) -> str:
    """All tables and the remarks as Markdown."""
    parts = [f"# {_cell(summary['title'] or summary['experiment'])}", f"Data: `{summary['data']}`"]
    for heads, rows in zip(headings(summary), lines(summary), strict=True):
        if len(heads) > 1:
            parts.append(markdown_table(heads, rows))
    if any(row["published"] for row in summary["rows"]) and len(headings(summary)[1]) > 1:
        parts.append("By class: ours (published).")
    heads, rows = ensembles(summary)
    if rows:
        parts.append(markdown_table(heads, rows))
    return "\n\n".join([*parts, *remarks(summary)]) + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    head, *body = ["| " + " | ".join(map(_cell, cells)) + " |" for cells in [heads, *rows]]
    return "\n".join([head, f"|{'---|' * len(heads)}", *body])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table_csv(summary: Mapping[str, Any]) -> str:
    """A line for each row and column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "name", "column", "mean", "sd", "n", "published", "difference", "comparable"])
    for row in summary["rows"]:
        for column in summary["columns"]:
            values = row["columns"].get(column, {})
            numbers = [values.get(key) for key in ("mean", "sd", "n")]
            known = row["published"].get(column)
            name = f"'{row['name']}" if row["name"].startswith(("=", "+", "-", "@")) else row["name"]
            writer.writerow(
                [row["id"], name, column, *numbers, known, values.get("difference"), summary["comparable"]],
            )
    return stream.getvalue()


def write_comparison(out: Path, name: str, summary: dict[str, Any], toml: str) -> None:
    """Write NAME.toml (the experiment, resolved), .md, .csv, .json, and .svg if rows are snapshots.

    Raises:
        SsmtlError: the disk is full or not writable.
    """
    points = [row for row in summary["rows"] if row["epochs"] is not None and row["columns"]]
    titles = ("", "by class: ours (published)" if any(row["published"] for row in summary["rows"]) else "by class")
    shown = [*zip(titles, headings(summary), lines(summary), strict=True), ("", *ensembles(summary))]
    summary |= as_shown([(t, h, r) for t, h, r in shown if len(h) > 1 and r], remarks(summary))
    texts = {"toml": toml, "md": markdown(summary), "csv": table_csv(summary), "json": json.dumps(summary, indent=1)}
    texts |= {"svg": figure(summary)} if points else {}
    write_texts(out, name, texts)
