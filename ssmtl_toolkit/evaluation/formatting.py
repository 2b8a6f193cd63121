"""How metrics and their values are printed: headings with units, digits, signs, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec

_UNDEFINED = "-"


def read_metrics(texts: Iterable[str]) -> tuple[MetricSpec, ...]:
    """Make the metrics that a summary lists under `metrics`."""
    return tuple(registry().resolve(MetricSpec, text) for text in texts)


def title(metric: MetricSpec) -> str:
    """The metric's name in tables."""
    return metric.title or metric.name


def mean_title(metric: MetricSpec) -> str:
    """The name of its mean over the classes, as in the columns of an experiment and among published values."""
    return metric.mean_title or title(metric)


def heading(metric: MetricSpec) -> str:
    """The heading of its column: its name and unit."""
    return _with_unit(metric, title(metric))


def mean_heading(metric: MetricSpec) -> str:
    """The heading of a column of means over classes."""
    return _with_unit(metric, mean_title(metric))


def _with_unit(metric: MetricSpec, name: str) -> str:
    return f"{name} ({metric.unit})" if metric.unit else name


def number(metric: MetricSpec, value: float | None, sign: bool = False) -> str:
    """Print a value, with its sign if it is a difference; a dash if it is undefined."""
    return _UNDEFINED if value is None else f"{value:{'+' if sign else ''}.{metric.digits}f}"


def spread(metric: MetricSpec, values: Mapping[str, Any], sign: bool = False) -> str:
    """Print `mean ± sd` of what `statistics.spread` returns; the mean alone if it has no deviation."""
    deviation = "" if values["sd"] is None else f" ± {number(metric, values['sd'])}"
    return number(metric, values["mean"], sign) + deviation


def difference(metric: MetricSpec, values: Mapping[str, Any]) -> str:
    """Print `mean ± sd` of what `statistics.paired` returns, the mean with its sign."""
    return spread(metric, values, sign=True)


def interval(metric: MetricSpec, ends: Sequence[float] | None, sign: bool = True) -> str:
    """Print an interval, with signs if it is that of a difference; a dash if there is none."""
    return _UNDEFINED if ends is None else " to ".join(number(metric, end, sign=sign) for end in ends)


def lower_is_better(metrics: Iterable[MetricSpec]) -> list[str]:
    """The line below a table of these metrics that says of which a lower value is better; none if of none."""
    names = [title(metric) for metric in metrics if not metric.higher_is_better]
    return [f"{', '.join(names)}: lower is better."] if names else []


def remarks(metrics: Iterable[MetricSpec]) -> list[str]:
    """What the metrics themselves say below a table, such as `surface Dice: within 1 mm`."""
    return [f"{title(metric)}: {remark}" for metric in metrics if (remark := metric.remark())]


def score_rows(arms: dict[str, Any], ensemble: dict[str, Any], metrics: Sequence[MetricSpec]) -> list[list[str]]:
    """A row for each arm, followed by one for each class or for the input, and one for its models together."""
    rows = []
    for arm, scores in arms.items():
        classes = scores.get("classes", {})
        rows.append([f"{arm}, mean" if classes else arm, *(spread(m, scores[m.name]) for m in metrics)])
        for label, values in classes.items():
            rows.append([f"  {label}", *(spread(m, values[m.name]) for m in metrics)])
        if "noisy" in scores:
            rows.append(["  noisy input", *(number(m, scores["noisy"].get(m.name)) for m in metrics)])
        if arm in ensemble:
            rows.append([f"{arm}, ensemble", *(spread(m, ensemble[arm][m.name]) for m in metrics)])
    return rows
