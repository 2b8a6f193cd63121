"""The sections of comparisons: what was found, in sentences, tables and curves, and the runs that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.reporting.bands import draw_bands, units
from ssmtl_toolkit.reporting.charts import chart, colour
from ssmtl_toolkit.reporting.parts import Chart, Facts, Part, Section, Table, Text
from ssmtl_toolkit.reporting.records import Record
from ssmtl_toolkit.runtime.folder import REPORT, SUMMARY

_RUNS = 200  # with a link at most


def sections(record: Record) -> list[Section]:
    """A section for each comparison in the folder, and one for its runs."""
    made = [
        Section(f"comparison-{name}", _title(name, record), _comparison(record.read(f"{name}.json")))
        for name in record.names
    ]
    return [*made, Section("runs", "Runs", _runs(record.folder))]


def _title(name: str, record: Record) -> str:
    titles = {"fewshot": "How many labels?", "affinity": "Which tasks go together?"}
    return titles.get(name) or record.read(f"{name}.json").get("title") or name


def _comparison(summary: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = [Text(text) for text in summary.get("sentences", ())]
    facts = [(name, str(summary[name])) for name in ("data", "recipe", "draws", "pretrainings") if name in summary]
    if "planned" in summary:
        facts.append(("fine-tunings done", f"{summary['done']} of {summary['planned']}"))
    parts.append(Facts(facts))
    if "methods" in summary and "cells" in summary:
        parts.append(_bands(summary))
    parts += [Table(table["title"] or "Comparison", table["heads"], table["rows"]) for table in summary["tables"]]
    said = set(summary.get("sentences", ()))
    return [*parts, *(Text(remark) for remark in summary["remarks"] if remark not in said)]


def _bands(summary: Mapping[str, Any]) -> Chart:
    (metric,) = formatting.read_metrics([summary["metric"]])
    title = f"{formatting.mean_heading(metric)} against labels"
    size = (1.3 + 4.5 * len(units(summary)), 3.6)
    means = "; ".join(
        f"{cell['method']} with {cell['budget']}: {formatting.spread(metric, cell[metric.name])}"
        for cell in summary["cells"]
    )
    alt = f"{title}, with a band of one standard deviation: {means}."
    return chart(title, partial(draw_bands, summary=summary, colour=colour), alt, size)


def _runs(folder: Path) -> list[Part]:
    runs = sorted(file.parent for kind in ("pretrain", "finetune") for file in (folder / kind).glob(f"*/{SUMMARY}"))
    rows = [[run.relative_to(folder).as_posix()] for run in runs[:_RUNS]]
    links = [(run / REPORT).relative_to(folder).as_posix() if (run / REPORT).is_file() else "" for run in runs[:_RUNS]]
    if not rows:
        return []
    more = [Text(f"The first {_RUNS} of {len(runs)} are listed.")] if len(runs) > _RUNS else []
    return [Table("Finished runs; the name leads to the report of each", ["run"], rows, links=links), *more]
