"""The runs below one folder, done by the workers of a cluster: a task for each pre-training and each fine-tuning."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssmtl_toolkit.experiments.definition import Job
from ssmtl_toolkit.experiments.runs import Runs
from ssmtl_toolkit.runtime.cluster import Task, check_cluster, opened
from ssmtl_toolkit.runtime.notebook import default_progress
from ssmtl_toolkit.runtime.on_worker import Ended
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import default_cache
from ssmtl_toolkit.specs import TrackerSpec


def runs_in(
    out: str | Path,
    cache: str | Path | None,
    progress: Progress | None,
    track: Sequence[TrackerSpec],
    cluster: str | None,
) -> Runs:
    """The runs below the folder `out`, done here or on a cluster.

    Raises:
        UsageError: the cluster cannot be meant, or what it needs is not installed.
    """
    place = (Path(out).absolute(), (Path(cache) if cache else default_cache()).absolute())
    progress = progress or default_progress()
    return Runs(*place, progress, track) if cluster is None else PlacedRuns(*place, progress, track, cluster)


class PlacedRuns(Runs):
    """Runs that are done by workers, which see the same folders; who does which is up to Dask."""

    def __init__(self, out: Path, cache: Path, progress: Progress, track: Sequence[TrackerSpec], cluster: str) -> None:
        super().__init__(out, cache, progress, track)
        self._place, self._cluster = _Place(out, cache, tuple(track)), check_cluster(cluster)

    def run(self, jobs: Sequence[Job], until: float = math.inf) -> dict[str, str]:
        """Do every job, as `Runs.run`, whose arguments it takes and whose errors it raises.

        Raises:
            SsmtlError: the cluster cannot be used, or is lost.
        """
        self.begin(jobs)
        plan = _Plan(self, self._place, time.time() + until - time.monotonic())
        for job in jobs:
            plan.add(job)
        if plan.tasks:
            with opened(self._cluster, self.progress) as cluster:
                cluster.run(plan.tasks, plan.ended, alone=True)
        return {job.id: reason for job in jobs if (reason := plan.failed.get(self.finetuning(job)))}


@dataclass(frozen=True)
class _Place:
    """Where a worker does its part, and what else it must know."""

    out: Path
    cache: Path
    track: tuple[TrackerSpec, ...]


class _Plan:
    """The tasks of all jobs, and how they ended; equal runs are one."""

    def __init__(self, runs: Runs, place: _Place, deadline: float) -> None:
        """`deadline`: when `time.time()` is later than this no task is begun."""
        self._runs, self._place, self._deadline = runs, place, deadline
        self.tasks: list[Task] = []
        self.failed: dict[Path, str] = {}
        self._folders: list[Path] = []  # of the tasks
        self._ended = 0

    def add(self, job: Job) -> None:
        """Add what is missing of a job: its fine-tuning, after its pre-training."""
        run, folder = self._runs.pretraining(job), self._runs.finetuning(job)
        if self._runs.is_done(job) or folder in self._folders:
            return
        if run is not None and run not in self._folders:
            self._add(run, f"{job.name}: pre-training", job)
        self._add(folder, f"{job.name}: fine-tuning", job, None if run is None else self._folders.index(run))

    def _add(self, folder: Path, name: str, job: Job, after: int | None = None) -> None:
        part = "finetune" if folder == self._runs.finetuning(job) else "pretrain"
        self.tasks.append(Task(name, _do, (self._place, part, job, self._deadline), after))
        self._folders.append(folder)

    def ended(self, i: int, end: Ended) -> None:
        """Say how a task ended."""
        self._ended += 1
        name, count = self.tasks[i].name, f"{self._ended} of {len(self.tasks)}, {end.worker}"
        if end.failed:
            self.failed[self._folders[i]] = end.failed
            before = self.tasks[i].after
            if before is None or self._folders[before] not in self.failed:  # else that has been said
                self._runs.progress.note(f"{name} failed ({count}): {end.failed}")
        elif end.result:
            self._runs.progress.say(f"{name} is done ({count})")


def _do(place: _Place, part: str, job: Job, deadline: float, progress: Progress) -> bool:
    """Do a part of a job on a worker; whether it is done: in time it was begun."""
    runs = Runs(place.out, place.cache, _OfRow(job.name, progress), place.track)
    return runs.do(
        runs.finetune if part == "finetune" else runs.pretrain, job, time.monotonic() + deadline - time.time()
    )


class _OfRow(Progress):
    """Passes on what is said in a row, with its name: several are done at a time."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress = name, progress

    def note(self, text: str) -> None:
        self._progress.note(self._named(text))

    def say(self, text: str) -> None:
        self._progress.say(self._named(text))

    def _named(self, text: str) -> str:
        text = text.strip()
        return text if text.startswith(f"{self._name}: ") else f"{self._name}: {text}"
