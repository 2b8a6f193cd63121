"""From the scores of trials to means, differences to twins from scratch, and labels saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmtl_toolkit.config import Budget
from ssmtl_toolkit.evaluation import formatting, statistics
from ssmtl_toolkit.evaluation.crossed import Matrix, crossed, rectangle, saved
from ssmtl_toolkit.experiments.fewshot.arms import Arm
from ssmtl_toolkit.experiments.fewshot.trials import Trial
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.text import counted

MEAN = "mean"
"""What the mean over the classes is called among them."""


@dataclass(frozen=True)
class Line:
    """What came of one trial.

    Attributes:
        scores: by metric and class; `MEAN` for the mean over them.
        minutes: of the fine-tuning and its test.
        pretraining_minutes: of the pre-training, which many trials share; None without one.
        scans: how many were scored.
        seen: how many of them the weights that it started from have seen; None: from scratch, or not recorded.
    """

    trial: Trial
    scores: Mapping[str, Mapping[str, float | None]]
    minutes: float
    pretraining_minutes: float | None
    scans: int
    seen: int | None

    @classmethod
    def of(cls, trial: Trial, results: Mapping[str, Any]) -> Line | None:
        """What the summaries of the trial's runs say; None if it is not done."""
        tuned, run = results["finetune"], results["pretrain"]
        if not tuned.get("seeds"):
            return None
        (arm,) = tuned["arms"]
        names = [text.partition(":")[0] for text in tuned["metrics"]]
        scores, classes = tuned["arms"][arm], tuned["arms"][arm].get("classes", {})
        by_metric = {
            name: {
                **{label: classes[label][name]["values"][0] for label in classes},
                MEAN: scores[name]["values"][0],
            }
            for name in names
        }
        seconds, scans = tuned["training"][arm][0]["seconds"], tuned["scans"]
        shared = run["seconds"] / 60 if run else None
        return cls(trial, by_metric, seconds / 60, shared, scans["test"], scans["test_seen_in_pretraining"])


class Scores:
    """The scores of all trials by one metric, as tables of draws and pre-trainings."""

    def __init__(self, lines: Iterable[Line], metric: MetricSpec, draws: int, pretrainings: int) -> None:
        self.sizes, self.metric = (draws, pretrainings), metric
        self.better = 1 if metric.higher_is_better else -1
        self._values = {
            (line.trial.arm, line.trial.budget, line.trial.draw, line.trial.pretraining): line.scores[metric.name][MEAN]
            for line in lines
        }

    def table(self, arm: Arm, budget: Budget) -> list[list[float | None]]:
        """The scores of an arm, draws by pre-trainings; None where they are missing."""
        draws, seeds = self.sizes
        columns: Sequence[int | None] = range(seeds) if arm.pretrain else [None]
        return [[self._values.get((arm.id, budget, draw, seed)) for seed in columns] for draw in range(draws)]

    def differences(self, arm: Arm, twin: Arm, budget: Budget) -> Matrix:
        """Those of an arm and its twin (draws, pre-trainings), of the draws that both have whole."""
        return self._whole(arm, budget, twin, [budget])[2]

    def saved(self, arm: Arm, twin: Arm, budgets: Sequence[Budget], budget: Budget) -> dict[str, Any] | None:
        """How many labels the arm saves at this budget; None before a draw is done, by the twin at all budgets."""
        ours, curves, _ = self._whole(arm, budget, twin, budgets)
        if not len(ours):
            return None
        sizes = [each.number for each in budgets]
        return {**saved(ours, curves, sizes, budgets.index(budget), self.better), "draws": len(ours)}

    def _whole(self, arm: Arm, budget: Budget, twin: Arm, budgets: Sequence[Budget]) -> tuple[Matrix, Matrix, Matrix]:
        """Of the draws that are whole: scores of the arm (draws, pre-trainings), of its twin at budgets (draws,
        budgets), and the difference at the first of these."""
        ours = self.table(arm, budget)
        tables = [self.table(twin, each) for each in budgets]
        theirs = [[table[draw][0] for table in tables] for draw in range(len(ours))]
        rows, columns = rectangle(ours)
        rows = [row for row in rows if rectangle([theirs[row]]) == ([0], list(range(len(budgets))))]
        scores = np.array([[ours[row][column] for column in columns] for row in rows], dtype=float)
        curves = np.array([theirs[row] for row in rows], dtype=float)
        scores, curves = scores.reshape(len(rows), len(columns)), curves.reshape(len(rows), len(budgets))
        return scores, curves, scores - curves[:, :1]


def compare(
    arms: Sequence[Arm], budgets: Sequence[Budget], lines: Sequence[Line], scores: Scores
) -> list[dict[str, Any]]:
    """A cell for each arm and budget: what is done, the mean, the difference to the twin, and labels saved."""
    by_id = {arm.id: arm for arm in arms}
    cells = []
    for budget in budgets:
        alike = [each for each in budgets if each.unit == budget.unit]
        for arm in arms:
            table = scores.table(arm, budget)
            twin = None if arm.twin is None else by_id[arm.twin]
            own = [line for line in lines if line.trial.arm == arm.id and line.trial.budget == budget]
            difference = None if twin is None else crossed(scores.differences(arm, twin, budget), scores.better)
            cells.append(
                {
                    "method": arm.id,
                    "budget": str(budget),
                    "done": len(own),
                    "planned": sum(map(len, table)),
                    scores.metric.name: statistics.spread(value for row in table for value in row),
                    "also": _others(own, scores.metric),
                    "twin": arm.twin,
                    "difference": difference,
                    "saved": None if twin is None else scores.saved(arm, twin, alike, budget),
                    "minutes": sum(line.minutes for line in own),
                }
            )
    return cells


def seen_before(arms: Sequence[Arm], lines: Sequence[Line]) -> list[str]:
    """What is known of scored scans that were seen by the weights which arms start from, a sentence for each file."""
    told = {}
    for arm in arms:
        own = [line for line in lines if line.trial.arm == arm.id]
        if arm.weights is None or not own or arm.weights in told:
            continue
        name, most = arm.weights.name, max(own, key=lambda line: line.seen or 0)
        if most.seen is None:
            told[arm.weights] = f"{name} does not say which scans it was trained on; none of those scored should be one"
        elif most.seen:
            told[arm.weights] = f"{name} has seen {most.seen} of {most.scans} scored scans, without labels"
    return list(told.values())


def _others(lines: Sequence[Line], metric: MetricSpec) -> dict[str, Any]:
    """The spread of the other metrics."""
    names = dict.fromkeys(name for line in lines for name in line.scores if name != metric.name)
    return {name: statistics.spread(line.scores[name][MEAN] for line in lines) for name in names}


def verdict(cell: Mapping[str, Any], arm: Arm, metric: MetricSpec) -> str:
    """Say in a sentence what pre-training (or learning from unlabelled scans) was worth at one budget; "" of no arm
    that has a twin, or of which nothing is done."""
    difference, found = cell["difference"], cell["saved"]
    if difference is None or difference["mean"] is None:
        return ""
    budget = Budget.read(cell["budget"])
    subject = "learning from unlabelled scans" if arm.starts_fresh else "pre-training"
    gain = f"{formatting.mean_heading(metric)} {formatting.number(metric, difference['mean'], sign=True)}"
    interval = difference["ci95"]
    where = f"{arm.name}, {budget.words}: "
    if interval is None:
        draws = f"{counted(difference['draws'], 'draw')}, {statistics.LEAST_REPETITIONS} are needed"
        return f"{where}cannot be said from {draws}: {gain}"
    gain += f" ({formatting.interval(metric, interval)})"
    low, high = interval if metric.higher_is_better else (-interval[1], -interval[0])
    if low <= 0 <= high:
        return f"{where}cannot be said whether {subject} helps: {gain}"
    if high < 0:
        return f"{where}{subject} did not help here: {gain}"
    labels = labels_saved(found, budget)
    saves = (
        "labels at this score, how many lies beyond the budgets" if labels == _OUTSIDE else f"{labels} at this score"
    )
    return f"{where}{subject} saves you {saves}: {gain}"


def labels_saved(found: Mapping[str, Any] | None, budget: Budget) -> str:
    """Print `1.4 patients (0.3 to 2.1)`, or `more than 3.0 patients (1.2 to …)` beyond the largest budget."""
    if found is None:
        return "-"
    if found["beyond"] and not found["labels"]:
        return _OUTSIDE
    text = f"{_BEYOND[found['beyond']]}{found['labels']:.1f} {budget.unit}"
    if found["ci95"] is None:
        return text
    low, high = ("…" if end is None else f"{end:.1f}" for end in found["ci95"])
    return f"{text} ({low} to {high})"


_OUTSIDE = "beyond the budgets"
_BEYOND = {"": "", "above": "more than ", "below": "less than "}
