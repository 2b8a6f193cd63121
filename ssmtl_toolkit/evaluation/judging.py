"""Asks metrics for scores. One that fails has no score there, is named with its plugin, and does not spoil others."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from ssmtl_toolkit.engine.metric import Comparison
from ssmtl_toolkit.foreign import by_the_user, in_one_line
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.text import counted, printable


class Judge:
    """Scores what belongs to one scan, and remembers what went wrong.

    Attributes:
        metrics: what to score by.
        scan: its name, for messages.
    """

    def __init__(self, metrics: Sequence[MetricSpec], scan: str) -> None:
        self.metrics, self.scan = metrics, scan
        self._failed: dict[str, list[str]] = {}  # metric -> where, and why

    def scores(self, comparison: Comparison, where: str) -> Mapping[str, float | None]:
        """Return the value of each metric by its name; `where` says in messages what is compared."""
        return {metric.name: self.score(metric, comparison, where) for metric in self.metrics}

    def score(self, metric: MetricSpec, comparison: Comparison, where: str) -> float | None:
        """Return one value; None: undefined, or the metric failed, which `failures` then tells."""
        try:
            value = metric.score(comparison)
            problem = problem_of(value, metric)
        except BaseException as error:
            if by_the_user(error):
                raise
            value, problem = None, in_one_line(error)
        if problem:
            self._failed.setdefault(metric.name, []).append(f"{where}: {problem}")
        return None if problem or value is None else float(value)

    @property
    def failures(self) -> list[str]:
        """What failed, a line for each metric, naming its plugin and the scan."""
        lines = []
        for metric in self.metrics:
            if places := self._failed.get(metric.name):
                more = f" (and {counted(len(places) - 1, 'time')} more)" if len(places) > 1 else ""
                lines.append(f"{printable(self.scan)}: {described(metric)} gives no score of {places[0]}{more}")
        return lines


def described(metric: MetricSpec) -> str:
    """Name a metric and the distribution that it comes from."""
    origin = registry().origin(metric)
    source = f"{origin['distribution']} {origin['version']}" if origin["distribution"] else type(metric).__module__
    return f"metric {metric.name!r} of {source}"


def problem_of(value: Any, metric: MetricSpec) -> str:
    """What is wrong with what a metric returned; "" if it is a number or None.

    Equal images may have an infinite score (PSNR): it is in no mean. Of label maps all scores are finite.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return f"it returned {type(value).__name__}, not a number or None"
    if math.isnan(value) or (math.isinf(value) and metric.output == "labels"):
        return f"it returned {float(value)}, not a number or None"
    return ""
