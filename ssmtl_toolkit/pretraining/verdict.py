"""What became of each task of a training, in a word and a sentence, judged by the lines of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.runtime.log import MetricLog
from ssmtl_toolkit.specs import TaskSpec

Word = Literal[
    "learned", "did not learn", "collapsed", "diverged", "too short to tell", "not trained", "no pairs", "no comparison"
]

FEW_STEPS = 20  # with fewer updates only divergence can be judged
_FAR, _RISING_FAR = 10.0, 3.0  # times the scale of a task: diverged; diverged if its loss is still rising
_LINES = 20  # of metrics.jsonl are needed to judge whether a loss rises without end
_CLEARLY = 0.02  # share of the distance from the best trivial answer to the floor


@dataclass(frozen=True)
class Verdict:
    """One task's verdict: the word is a stable key, `because` is for people."""

    word: Word
    because: str

    def __str__(self) -> str:
        return f"{self.word}: {self.because}"


@dataclass(frozen=True)
class History:
    """One task over a training.

    Attributes:
        losses: its mean loss in each line of metrics.jsonl that has one.
        untrained: its loss in the first step, before any update; None if that is not known.
        means: of its loss and metrics, over the last tenth of the steps.
        steps: updates done.
        anchors: how many anchors had been trained on before that last tenth.
    """

    losses: Sequence[float]
    untrained: float | None
    means: dict[str, float]
    steps: int
    anchors: float

    @classmethod
    def of(cls, log: MetricLog, task: TaskSpec, steps: int, images_per_step: int) -> Self:
        """Read the log of a training of so many steps."""
        label = str(task)
        losses, untrained = log.losses(label)
        means = log.final(label, ("loss", *task.metrics))
        return cls(losses, untrained, means, steps, (1 - log.LAST) * steps * images_per_step)


def best_trivial(task: TaskSpec, means: Mapping[str, float]) -> str | None:
    """The trivial answer that costs least; None if the task names none, or had no pairs."""
    return min((name for name in task.baselines if name in means), key=means.__getitem__, default=None)


def judge(task: TaskSpec, history: History, hint: str = "") -> Verdict:
    """Judge one task; `hint` is what else could be tried, such as another distance."""
    means = history.means
    if "loss" not in means:
        return Verdict("no pairs", "none of the last batches had a pair for it")
    if not task.weight:
        return Verdict("not trained", "its weight is 0")
    if reason := _divergence(task, history):
        return Verdict("diverged", f"{reason}; try a lower --lr or --clip 1")
    if history.steps < FEW_STEPS:
        return Verdict("too short to tell", f"{history.steps} of at least {FEW_STEPS} steps")
    if history.anchors < task.warm_up():
        return Verdict("too short to tell", f"it can be judged once {task.warm_up()} slices have been trained on")
    if todo := task.collapsed(means):
        return Verdict("collapsed", f"its features are nearly the same for all slices; {todo}")
    best = best_trivial(task, means)
    if best is None:
        return Verdict("no comparison", f"its loss ends at {means['loss']:.4g}; it names no trivial answer")
    return _compared(task, history, best, hint)


def _compared(task: TaskSpec, history: History, best: str, hint: str) -> Verdict:
    loss, trivial = history.means["loss"], history.means[best]
    possible = trivial - task.floor
    if trivial - loss > _CLEARLY * possible and loss < trivial:
        if task.beaten_untrained:
            comparison = (
                f"its loss {loss:.4g} ends below {best} ({trivial:.4g}), but so may that of an untrained network"
            )
            return Verdict("no comparison", f"{comparison}; fine-tuning will tell")
        by = f"{100 * (trivial - loss) / possible:.0f} %" if task.floor == 0 else f"{trivial - loss:.3g}"
        return Verdict(
            "learned", f"its loss {loss:.4g} ends {by} below the best trivial answer, {best} ({trivial:.4g})"
        )
    where = "above" if loss > trivial else "hardly below"
    todo = "it still falls: train longer (--epochs or --steps)" if _falls(history.losses) else "try another --lr"
    also = f", or {hint.removeprefix('try ')}" if hint else ""
    return Verdict(
        "did not learn",
        f"its loss {loss:.4g} ends {where} the best trivial answer, {best} ({trivial:.4g}); {todo}{also}",
    )


def _divergence(task: TaskSpec, history: History) -> str:
    """Why this loss has diverged; empty if it has not.

    The scale of a task is the largest of what trivial answers cost, its loss before any training and how far its floor
    is below 0, in size; at least 1 if it names no trivial answer. A loss diverges if it ends above ten times
    that, or rises without end to above three times that. So no bounded loss can, nor a network that is only untrained.
    """
    trivial = [abs(history.means[name]) for name in task.baselines if name in history.means]
    scale = max(*(trivial or [1.0]), abs(task.floor), abs(history.untrained or 0.0))
    loss = history.means["loss"]
    if loss > _FAR * scale:
        return f"its loss ends at {loss:.4g}, more than ten times the level without training ({scale:.4g})"
    if loss > _RISING_FAR * scale and rises_without_end(history.losses):
        return f"its loss rises without end, to {loss:.4g}"
    return ""


def rises_without_end(losses: Sequence[float]) -> bool:
    """Whether every one of the last quarter is above every one of the first half; needs 20 of them."""
    number = len(losses)
    return number >= _LINES and min(losses[-(number // 4) :]) > max(losses[: number // 2])


def _falls(losses: Sequence[float]) -> bool:
    """Whether the last third is lower than the third before it, by more than 2 %."""
    part = len(losses) // 3
    if part == 0:
        return False
    before, last = (math.fsum(third) / part for third in (losses[-2 * part : -part], losses[-part:]))
    return before - last > _CLEARLY * abs(before)


class DivergedError(SsmtlError):
    """A training diverged; `summary` is what it wrote."""

    def __init__(self, message: str, summary: dict[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary


def refuse_diverged(folder: Path, summary: dict[str, Any]) -> None:
    """Raise for a finished training, all of whose files are written, of which a task diverged.

    Raises:
        DivergedError: naming the first such task, and why.
    """
    for label, task in summary.get("tasks", {}).items():
        if task.get("verdict") == "diverged":
            raise DivergedError(f"{folder}: diverged: task {label!r}: {task['because']}", summary)
