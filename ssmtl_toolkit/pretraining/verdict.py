"""What became of each task of a training, in a word and a sentence, judged by the lines of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.features import PARTS, Feature, parts_of
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.specs import TaskSpec

Word = Literal[
    "learned",
    "memorised",
    "did not learn",
    "worse than trivial",
    "collapsed",
    "diverged",
    "too short to tell",
    "not trained",
    "no pairs",
    "no comparison",
]

FEW_STEPS = 20  # with fewer updates only divergence can be judged
_FAR, _RISING_FAR = 10.0, 3.0  # times the scale of a task: diverged; diverged if its loss is still rising
_LINES = 20  # of metrics.jsonl are needed to judge whether a loss rises without end
_CLEARLY = 0.02  # share of the distance from the best trivial answer to the floor
_PART = 0.6  # of the gain on slices that were trained on must be left on others, or they were memorised
_GAP = 0.05  # share of that distance by which the two gains must differ for it

_HARDLY = 1e-3  # of a trivial answer's size: below it by less is no gain, though the floor may be as near
_CONSTANT = 0.01  # spread below which features are the same for all slices; of training tasks 0.06 was the least seen
_OTHER = 0.2  # share of that distance by which a gain in eval mode and one in training mode must differ to be told


@dataclass(frozen=True)
class Verdict:
    """One task's verdict: the word is a stable key, `because` is for people."""

    word: Word
    because: str

    def __str__(self) -> str:
        return f"{self.word}: {self.because}"


@dataclass(frozen=True)
class Watched:
    """One task on two fixed samples of slices, in eval mode.

    Attributes:
        held_out: its loss and trivial answers at the end on slices of held-out scans.
        seen: the same on slices that were trained on, of as many scans.
        losses: its losses on the held-out slices, by step.
    """

    held_out: dict[str, float]
    seen: dict[str, float]
    losses: Mapping[int, float]

    @classmethod
    def of(cls, log: MetricLog, task: TaskSpec) -> Self | None:
        """Read the log; None if it has no such losses of the task."""
        losses = log.series(f"{task}/held_out")
        if not losses:
            return None
        last = {name: _last(log, task, name) for name in ("held_out", "seen")}
        return cls(**last, losses=losses) if all("loss" in means for means in last.values()) else None

    @property
    def lowest(self) -> int:
        """After which step the loss on held-out slices was lowest."""
        return min(self.losses, key=self.losses.__getitem__)

    def to_json(self, task: TaskSpec) -> dict[str, Any]:
        """For summary.json."""
        lowest = {"lowest": self.losses[self.lowest], "lowest_after": self.lowest}
        best = {"baseline": best_trivial(task, self.held_out)}
        return {"held_out": {**best, **self.held_out, **lowest}, "seen": self.seen}


def _last(log: MetricLog, task: TaskSpec, name: str) -> dict[str, float]:
    """The last loss and trivial answers on the slices of this name."""
    keys = {"loss": f"{task}/{name}"} | {metric: f"{task}/{name}_{metric}" for metric in task.baselines}
    series = {metric: log.series(key) for metric, key in keys.items()}
    return {metric: values[max(values)] for metric, values in series.items() if values}


@dataclass(frozen=True)
class History:
    """One task over a training.

    Attributes:
        losses: its mean loss in each line of metrics.jsonl that has one.
        untrained: its loss in the first step, before any update; None if that is not known.
        means: of its loss and metrics, over the last tenth of the steps.
        steps: updates done.
        anchors: how many anchors had been trained on before that last tenth.
        watched: what was measured on held-out slices; None without any.
        spreads: of the backbone's features over different slices, at the end; empty if not measured.
    """

    losses: Sequence[float]
    untrained: float | None
    means: dict[str, float]
    steps: int
    anchors: float
    watched: Watched | None = None
    spreads: Mapping[Feature, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, log: MetricLog, task: TaskSpec, steps: int, images_per_step: int, spreads: Mapping[Feature, float]
    ) -> Self:
        """Read the log of a training of so many steps."""
        label = str(task)
        losses, untrained = log.losses(label)
        means = log.final(label, ("loss", *task.metrics))
        anchors = (1 - log.LAST) * steps * images_per_step
        return cls(losses, untrained, means, steps, anchors, Watched.of(log, task), spreads)


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
    if reason := _constant(task, history.spreads):
        return Verdict("collapsed", f"{reason}; try a lower --lr, or --clip 1")
    if history.anchors < task.warm_up():
        return Verdict("too short to tell", f"it can be judged once {task.warm_up()} slices have been trained on")
    if todo := task.collapsed(means):
        return Verdict("collapsed", f"its features are nearly the same for all slices; {todo}")
    if best_trivial(task, means) is None:
        return Verdict("no comparison", f"its loss ends at {means['loss']:.4g}; it names no trivial answer")
    if history.watched and best_trivial(task, history.watched.held_out):
        return _judge_held_out(task, history, history.watched, hint)
    return _judge_seen(task, history, hint)


def _judge_seen(task: TaskSpec, history: History, hint: str) -> Verdict:
    """Judge by the training loss, where nothing else is known."""
    means = history.means
    if _gain(task, means) <= _CLEARLY:
        return _without_gain(task, f"its loss {_against(task, means)}", means, history.losses, hint)
    if task.beaten_untrained:
        return Verdict("no comparison", f"its loss {_against(task, means)}, {_UNTRAINED}")
    return Verdict("learned", f"its loss {_against(task, means)}; or memorised: no held-out slices could tell")


def _judge_held_out(task: TaskSpec, history: History, watched: Watched, hint: str) -> Verdict:
    """Judge by the loss on slices that were not trained on, beside the loss on others that were."""
    gain, gain_seen = _gain(task, watched.held_out), _gain(task, watched.seen)
    seen = f"slices trained on {watched.seen['loss']:.4g}"
    on_both = f"its loss on held-out slices {_against(task, watched.held_out)}; on {seen}"
    if _memorised(task, watched):
        far = f"{seen}, held-out slices {_against(task, watched.held_out)}"
        return Verdict("memorised", f"{far}; {_less(history, watched)}")
    if gain <= _CLEARLY:
        if _gain(task, history.means) - gain_seen > _OTHER:
            on_both += f", though {history.means['loss']:.4g} in training mode: batch norm's averages are off"
        losses = list(watched.losses.values()) if len(watched.losses) >= _THIRDS else history.losses
        return _without_gain(task, on_both, watched.held_out, losses, hint)
    if task.beaten_untrained:
        return Verdict("no comparison", f"its loss on held-out slices {_against(task, watched.held_out)}, {_UNTRAINED}")
    return Verdict("learned", on_both)


def _memorised(task: TaskSpec, watched: Watched) -> bool:
    """Whether too little of the gain on slices that were trained on is left on held-out ones.

    By the trivial answers of each sample, for one may be harder than the other; and by one answer for both, for some
    trivial answers, such as another pair of the batch, depend on which slices happen to be together.
    """
    own = [means[str(best_trivial(task, means))] for means in (watched.seen, watched.held_out)]
    for trivials in (own, [sum(own) / 2] * 2):
        losses = (watched.seen["loss"], watched.held_out["loss"])
        seen, held_out = (_share(task, *pair) for pair in zip(trivials, losses, strict=True))
        if seen <= _CLEARLY or seen - held_out <= _GAP or held_out >= _PART * seen:
            return False
    return True


_UNTRAINED = "where an untrained network may end too; fine-tuning will tell"


def _gain(task: TaskSpec, means: Mapping[str, float]) -> float:
    """How far the loss is below the best trivial answer, as a share of what is possible."""
    return _share(task, means[str(best_trivial(task, means))], means["loss"])


def _share(task: TaskSpec, trivial: float, loss: float) -> float:
    possible, distance = trivial - task.floor, trivial - loss
    hardly = 0 <= distance < _HARDLY * abs(trivial)
    return 0.0 if possible <= 0 or hardly else distance / possible


def _against(task: TaskSpec, means: Mapping[str, float]) -> str:
    """`0.104 ends 41 % below the best trivial answer, copy (0.178)`."""
    best, loss = str(best_trivial(task, means)), means["loss"]
    distance, gain = means[best] - loss, _gain(task, means)
    where = "above" if distance < 0 else "below"
    far = f"{100 * abs(gain):.0f} % " if task.floor == 0 else f"{abs(distance):.3g} "
    how = "hardly " if 0 <= gain <= _CLEARLY else "" if abs(gain) > 1 else far
    return f"{loss:.4g} ends {how}{where} the best trivial answer, {best} ({means[best]:.4g})"


def _without_gain(
    task: TaskSpec, because: str, means: Mapping[str, float], losses: Sequence[float], hint: str
) -> Verdict:
    """The verdict on a loss that is not clearly below the best trivial answer."""
    word: Word = "worse than trivial" if _gain(task, means) < 0 else "did not learn"
    todo = "it still falls: train longer (--epochs or --steps)" if _falls(losses) else "try another --lr"
    also = f", or {hint.removeprefix('try ')}" if hint else ""
    return Verdict(word, f"{because}; {todo}{also}")


def _less(history: History, watched: Watched) -> str:
    """What to do about memorising: more scans, or the length after which the held-out loss was lowest."""
    lowest = watched.lowest
    if lowest == history.steps:
        return "use more scans, or more tasks"
    return (
        f"use more scans, or train for less long: the loss on held-out slices was lowest after step {lowest} of "
        f"{history.steps} ({watched.losses[lowest]:.4g})"
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


def _constant(task: TaskSpec, spreads: Mapping[Feature, float]) -> str:
    """Why the features that the task reads hardly depend on the slice; empty if they do."""
    feature = PARTS[parts_of(task.needs)[-1]]  # of the last part that it reads
    spread = spreads.get(feature, 1.0)
    if spread >= _CONSTANT:
        return ""
    return f"the {feature} features are the same for all slices (they differ by {100 * spread:.2g} % of their size)"


def rises_without_end(losses: Sequence[float]) -> bool:
    """Whether every one of the last quarter is above every one of the first half; needs 20 of them."""
    number = len(losses)
    return number >= _LINES and min(losses[-(number // 4) :]) > max(losses[: number // 2])


_THIRDS = 3  # how many losses it takes to tell whether they still fall


def _falls(losses: Sequence[float]) -> bool:
    """Whether the last third is lower than the third before it, by more than 2 %."""
    part = len(losses) // _THIRDS
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
