"""What is wrong with a task although its loss may look good: it starves, is solved at once, or breaks its floor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

from ssmtl_toolkit.pretraining.verdict import FEW_STEPS
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.specs import TaskSpec

_STARVED = 0.01  # of an equal share; a task that others leave so little of the backbone's gradient teaches it nothing
_LOOKS, _STEPS_PER_LOOK = (
    5,
    50,
)  # gradients are measured so often, and no oftener: such a step takes 2 to 3 times as long
_EARLY = 0.1  # share of the steps, at the start, in which gradients say little of what comes
_AT_ONCE = 0.95  # accuracy before learning: of the bundled tasks, untrained and with their augmentation, at most 0.2
_FEWEST_VIEWS = 16  # among which one is to be picked: of fewer, an untrained network may pick the right ones
_SOON = 20  # steps after the warm-up, within which nothing can have been learned
_FLOOR_TOLERANCE = 1e-3  # of its size, or of 1: rounding


def gradient_looks(tasks: Sequence[TaskSpec], steps: int, log_every: int) -> frozenset[int]:
    """The steps of a training in which each task's gradient at the backbone is measured, all of them logged.

    The first is one of them: what does not fit into memory then fails there, and not after hours.
    """
    if steps < FEW_STEPS or sum(task.given_weight > 0 for task in tasks) < 2:
        return frozenset()
    number = min(_LOOKS, max(1, steps // _STEPS_PER_LOOK))
    even = (math.ceil(i * steps / number / log_every) * log_every for i in range(1, number + 1))
    return frozenset({1, *(min(step, steps) for step in even)})


def gradient_shares(log: MetricLog, tasks: Sequence[TaskSpec], steps: int) -> dict[str, float]:
    """Each task's share of what all gradients at the backbone amount to, times the balancer's factor: the median.

    Steps in which a task had no gradient, for want of pairs, do not count for it.
    """
    labels = [str(task) for task in tasks if task.given_weight > 0]
    shares: dict[str, list[float]] = {label: [] for label in labels}
    for record in log.records():
        if record["step"] <= _EARLY * steps:
            continue
        pulls = {k: record.get(f"{k}/gradient", 0.0) * abs(record.get(f"{k}/weight", 1.0)) for k in labels}
        total = math.fsum(pulls.values())
        for label, pull in pulls.items():
            if pull > 0 and math.isfinite(total):
                shares[label].append(pull / total)
    return {label: median(values) for label, values in shares.items() if values}


def symptoms(
    task: TaskSpec,
    means: Mapping[str, float],
    shares: Mapping[str, float],
    accuracy: float | None,
    weighs: bool = True,
) -> dict[str, str]:
    """What is wrong, by a word that is a stable key, and why, for people.

    Args:
        means: the final ones of loss and metrics.
        shares: as `gradient_shares` returns them, of all tasks.
        accuracy: as `first_accuracy` returns it; None if the training did not begin with random weights.
        weighs: whether the weights of tasks count for the balancer.
    """
    found = {
        "starves": _starves(task, shares, weighs),
        "solved at once": _solved_at_once(task, means, accuracy),
        "below its floor": _below_floor(task, means),
    }
    return {word: because for word, because in found.items() if because}


def _starves(task: TaskSpec, shares: Mapping[str, float], weighs: bool) -> str:
    share = shares.get(str(task))
    if share is None or share * len(shares) >= _STARVED:
        return ""
    larger = "a larger weight than was measured" if task.weight == "auto" else "weight=auto, or a larger weight"
    todo = f"give it {larger}" if weighs else "try another --balancer"
    return f"its gradient at the backbone is {100 * share:.2g} % of all; {todo}"


def _solved_at_once(task: TaskSpec, means: Mapping[str, float], accuracy: float | None) -> str:
    """Whether views are told apart before anything can have been learned."""
    todo = task.if_solved_at_once()
    if not todo or accuracy is None or accuracy < _AT_ONCE or means.get("chance", 0.0) < math.log(_FEWEST_VIEWS):
        return ""
    return f"it picks the right view in {100 * accuracy:.0f} % before anything is learned; {todo}"


def _below_floor(task: TaskSpec, means: Mapping[str, float]) -> str:
    loss = means.get("loss", math.inf)
    if loss >= task.floor - _FLOOR_TOLERANCE * max(1.0, abs(task.floor)):
        return ""
    return (
        f"its loss ends at {loss:.4g}, below {task.floor:g}, which its spec states as `floor`; the verdict and "
        f"balancers count from there: correct it in the spec"
    )


def first_accuracy(log: MetricLog, task: TaskSpec, images_per_step: int) -> float | None:
    """The metric `accuracy` of the first line that is all after the task's warm-up and soon after it; None without."""
    warm = math.ceil(task.warm_up() / images_per_step)
    by_step = log.series(f"{task}/accuracy")
    for before, step in pairwise([0, *by_step]):
        if before >= warm:
            return by_step[step] if step <= warm + _SOON else None
    return None
