"""The figure: score against labelled patients or slices, a curve with a band for each method."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ssmtl_toolkit.config import Budget
from ssmtl_toolkit.evaluation import formatting


def figure(summary: Mapping[str, Any]) -> str:
    """A panel for each unit of budgets; the band is one standard deviation on each side. Returns SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    budgets = [Budget.read(text) for text in summary["budgets"]]
    units = list(dict.fromkeys(budget.unit for budget in budgets))
    drawn = Figure(figsize=(1 + 4.5 * len(units), 3.6), layout="constrained")
    panels = drawn.subplots(1, len(units), squeeze=False, sharey=True)[0]
    for unit, axes in zip(units, panels, strict=True):
        _panel(axes, summary, [budget for budget in budgets if budget.unit == unit])
    (metric,) = formatting.read_metrics([summary["metric"]])
    panels[0].set_ylabel(f"{formatting.mean_heading(metric)}, {summary['score']} scans")
    panels[0].legend()
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "ssmtl", "svg.fonttype": "none"}):
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _panel(axes: Any, summary: Mapping[str, Any], budgets: list[Budget]) -> None:
    """The curves over budgets of one unit."""
    cells = {(cell["method"], cell["budget"]): cell[summary["metric"]] for cell in summary["cells"]}
    for method in summary["methods"]:
        known = [(budget.number, cells[method["id"], str(budget)]) for budget in budgets]
        known = [(number, score) for number, score in known if score["mean"] is not None]
        numbers, means = [number for number, _ in known], [score["mean"] for _, score in known]
        sds = [score["sd"] or 0.0 for _, score in known]
        (curve,) = axes.plot(numbers, means, marker="o", ls="-" if method["twin"] else "--", label=method["name"])
        low, high = ([m + side * sd for m, sd in zip(means, sds, strict=True)] for side in (-1, 1))
        axes.fill_between(numbers, low, high, color=curve.get_color(), alpha=0.15, lw=0)
    numbers = [budget.number for budget in budgets]
    axes.set_xlim(min(numbers) / 1.2, max(numbers) * 1.2)  # also where nothing is done yet
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, labels=[str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel(f"labelled {budgets[0].unit}")
