"""What run folders below a folder hold: how far each is, its score, and in which options they differ. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssmtl_toolkit.documents import read_result, read_toml
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.folder import CHECKPOINTS, CONFIG, ENVIRONMENT, FINETUNE, LOCK, SUMMARY
from ssmtl_toolkit.specs import MetricSpec

_DEEP = 4  # folders below the one that is listed
_ARMS = ("pretrained", "scratch")  # the one that counts first
_KINDS = {CONFIG: "run", FINETUNE: "finetune"}


@dataclass(frozen=True)
class RunInfo:
    """A run folder.

    Attributes:
        command: `run` or `finetune`.
        state: finished, failed, interrupted, running, or killed.
        started: when it was first started, in UTC; "": not recorded.
        metric: what a fine-tuning with a summary is compared by, as a text form; "": nothing.
        scores: its mean over classes and repetitions for each arm, the one that counts first.
        losses: what each task of a pre-training ended with, and the verdict on it.
        options: all options.
    """

    folder: Path
    command: str
    state: str
    started: str
    metric: str
    scores: Mapping[str, float]
    losses: Mapping[str, tuple[float | None, str]]
    options: Mapping[str, Any]

    @property
    def score(self) -> float | None:
        """The mean of the arm that counts."""
        return next(iter(self.scores.values()), None)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; without the options."""
        return {
            "folder": str(self.folder),
            "command": self.command,
            "state": self.state,
            "started": self.started,
            "score": {"metric": _name(self.metric), "mean": self.score, "arms": dict(self.scores)}
            if self.scores
            else None,
            "tasks": {name: {"loss": loss, "verdict": verdict} for name, (loss, verdict) in self.losses.items()},
        }


def runs_below(folder: Path) -> list[RunInfo]:
    """All runs in a folder and below it, the newest last; what cannot be read is skipped."""
    found = []
    for place in _folders(folder, _DEEP):
        for file, command in _KINDS.items():
            if (place / file).is_file():
                with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
                    found.append(_info(place, place / file, command))
    return sorted(found, key=lambda run: (run.started, str(run.folder)))


def best(runs: Sequence[RunInfo]) -> RunInfo | None:
    """The fine-tuning with the best score; None unless at least two are scored by the same metric."""
    scored = [(run.score, run) for run in runs if run.score is not None]
    names = {_name(run.metric) for _, run in scored}
    if len(scored) < 2 or len(names) > 1:
        return None
    metric = next((spec for spec in registry().of(MetricSpec) if spec.name in names), MetricSpec)
    sign = 1 if metric.higher_is_better else -1
    return max(scored, key=lambda pair: sign * pair[0])[1]


def differing(runs: Sequence[RunInfo]) -> dict[str, list[str]]:
    """The options that are not the same in all of these runs, each with its value in every run."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    values = {name: [_text(run.options.get(name)) for run in runs] for name in names}
    return {name: texts for name, texts in values.items() if len(set(texts)) > 1}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _folders(folder: Path, deep: int) -> Iterator[Path]:
    yield folder
    if deep and not folder.is_symlink():
        with contextlib.suppress(OSError):
            for path in sorted(folder.iterdir()):
                if path.is_dir() and path.name != CHECKPOINTS and not path.name.startswith("."):
                    yield from _folders(path, deep - 1)


def _info(folder: Path, file: Path, command: str) -> RunInfo:
    summary, environment = read_result(folder / SUMMARY), read_result(folder / ENVIRONMENT)
    starts = environment.get("starts") or [{}]
    state = starts[-1].get("state") or ("finished" if summary else "killed")
    if state != "finished":
        state = "running" if _is_held(folder) else "killed" if state == "running" else state
    tasks = {label: (task["loss"], task["verdict"]) for label, task in summary.get("tasks", {}).items()}
    options = read_toml(file)
    started = starts[0].get("started", "")
    return RunInfo(folder, command, state, started, *_scores(summary), tasks, options)


def _scores(summary: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The first metric that has a mean, and this of every arm."""
    arms = summary.get("arms") or {}
    for metric in summary.get("metrics", ()):
        means = {arm: arms.get(arm, {}).get(_name(metric), {}).get("mean") for arm in _ARMS}
        found = {arm: float(mean) for arm, mean in means.items() if isinstance(mean, int | float)}
        if found:
            return metric, found
    return "", {}


def _name(metric: str) -> str:
    return metric.partition(":")[0]


def _is_held(folder: Path) -> bool:
    """Whether a process holds the folder; nothing is created to find out."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False
