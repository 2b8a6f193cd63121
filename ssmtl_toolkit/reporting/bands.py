"""The figure of a comparison of few labels: score against labelled patients or slices, a curve with a band each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ssmtl_toolkit.config import Budget
from ssmtl_toolkit.evaluation import formatting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def units(summary: Mapping[str, Any]) -> list[str]:
    """What labels are counted in, a panel each."""
    return list(dict.fromkeys(Budget.read(text).unit for text in summary["budgets"]))


def draw_bands(figure: Figure, summary: Mapping[str, Any], colour: Callable[[int], str] | None = None) -> None:
    """Draw a panel for each unit; the band is one standard deviation on each side. `colour`: by number of method."""
    budgets = [Budget.read(text) for text in summary["budgets"]]
    panels = figure.subplots(1, len(units(summary)), squeeze=False, sharey=True)[0]
    for unit, axes in zip(units(summary), panels, strict=True):
        _panel(axes, summary, [budget for budget in budgets if budget.unit == unit], colour)
    (metric,) = formatting.read_metrics([summary["metric"]])
    panels[0].set_ylabel(f"{formatting.mean_heading(metric)}, {summary['score']} scans")
    panels[0].legend()


def _panel(
    axes: Axes, summary: Mapping[str, Any], budgets: Sequence[Budget], colour: Callable[[int], str] | None
) -> None:
    """The curves over budgets of one unit."""
    cells = {(cell["method"], cell["budget"]): cell[summary["metric"]] for cell in summary["cells"]}
    for i, method in enumerate(summary["methods"]):
        known = [(budget.number, cells[method["id"], str(budget)]) for budget in budgets]
        known = [(number, score) for number, score in known if score["mean"] is not None]
        numbers, means = [number for number, _ in known], [score["mean"] for _, score in known]
        sds = [score["sd"] or 0.0 for _, score in known]
        chosen: dict[str, Any] = {"color": colour(i)} if colour else {}
        shape = "-" if method["twin"] else "--"
        (curve,) = axes.plot(numbers, means, marker="o", ls=shape, label=method["name"], **chosen)
        low, high = ([m + side * sd for m, sd in zip(means, sds, strict=True)] for side in (-1, 1))
        axes.fill_between(numbers, low, high, color=curve.get_color(), alpha=0.15, lw=0)
    numbers = [budget.number for budget in budgets]
    axes.set_xlim(min(numbers) / 1.2, max(numbers) * 1.2)  # also where nothing is done yet
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, labels=[str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel(f"labelled {budgets[0].unit}")
