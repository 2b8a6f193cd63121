"""What run folders below a folder hold: how far each is, its score, and in which options they differ. No torch."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.folder import CHECKPOINTS, CONFIG, ENVIRONMENT, FINETUNE, LOCK, SUMMARY
from ssmtl_toolkit.specs import MetricSpec

_DEEP = 4  # folders below the one that is listed
_KINDS = {CONFIG: "run", FINETUNE: "finetune"}


@dataclass(frozen=True)
class RunInfo:
    """A run folder.

    Attributes:
        command: `run` or `finetune`.
        state: finished, failed, interrupted, running, or killed.
        started: when it was first started, in UTC; "": not recorded.
        score: the metric that is compared by and its mean, of a fine-tuning that has a summary.
        losses: what each task of a pre-training ended with, and the verdict on it.
        options: all options.
    """

    folder: Path
    command: str
    state: str
    started: str
    score: tuple[str, float] | None
    losses: Mapping[str, tuple[float | None, str]]
    options: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; without the options."""
        return {
            "folder": str(self.folder),
            "command": self.command,
            "state": self.state,
            "started": self.started,
            "score": None if self.score is None else {"metric": self.score[0], "mean": self.score[1]},
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
    scored = [run for run in runs if run.score]
    names = {run.score[0] for run in scored if run.score}
    if len(scored) < 2 or len(names) > 1:
        return None
    metric = next((spec for spec in registry().of(MetricSpec) if spec.name in names), MetricSpec)
    sign = 1 if metric.higher_is_better else -1
    return max(scored, key=lambda run: sign * run.score[1] if run.score else 0.0)


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
    summary, environment = _json(folder / SUMMARY), _json(folder / ENVIRONMENT)
    starts = environment.get("starts") or [{}]
    state = starts[-1].get("state") or ("finished" if summary else "killed")
    if state != "finished":
        state = "running" if _is_held(folder) else "killed" if state == "running" else state
    tasks = {label: (task["loss"], task["verdict"]) for label, task in summary.get("tasks", {}).items()}
    options = tomllib.loads(file.read_text(encoding="utf-8"))
    started = starts[0].get("started", "")
    return RunInfo(folder, command, state, started, _score(summary), tasks, options)


def _score(summary: Mapping[str, Any]) -> tuple[str, float] | None:
    """The first metric of the arm that counts, averaged over classes and repetitions."""
    arms = summary.get("arms") or {}
    arm = arms.get("pretrained") or arms.get("scratch") or {}
    for metric in summary.get("metrics", ()):
        name = metric.partition(":")[0]
        mean = arm.get(name, {}).get("mean")
        if isinstance(mean, int | float):
            return name, float(mean)
    return None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


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
