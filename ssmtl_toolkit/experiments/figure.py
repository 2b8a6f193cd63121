"""The figure of an experiment: scores against epochs of pre-training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ssmtl_toolkit.evaluation import formatting


def figure(summary: Mapping[str, Any]) -> str:
    """Score against epochs of pre-training, with error bars; from scratch as a dashed line. Returns SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    mean, curves = summary["mean"], dict[str, list[Any]]()
    for row in summary["rows"]:
        if row["epochs"] is not None and row["columns"] and row["columns"][mean]["mean"] is not None:
            curves.setdefault(row["id"].partition("@")[0], []).append(row)
    drawn = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = drawn.add_subplot()
    for rows in curves.values():
        scores = [row["columns"][mean] for row in rows]
        deviations = [values["sd"] or 0.0 for values in scores]
        label = rows[0]["name"].partition(",")[0]
        epochs = [row["epochs"] for row in rows]
        axes.errorbar(epochs, [values["mean"] for values in scores], deviations, marker="o", capsize=3, label=label)
        over = rows[0]["gain"] and next(row for row in summary["rows"] if row["id"] == rows[0]["gain"]["over"])
        if over and over["columns"][mean]["mean"] is not None:
            axes.axhline(over["columns"][mean]["mean"], ls="--", color="gray", label=over["name"])
    (metric,) = formatting.read_metrics([summary["metric"]])
    score = f"{formatting.mean_heading(metric)} on test scans"
    axes.set(xlabel="epochs of pre-training", ylabel=score, title=summary["title"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "ssmtl", "svg.fonttype": "none"}):
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
