"""The runs below one folder: each is done once, whoever needs it, by one of the processes that share the folder."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from ssmtl_toolkit.config import Config, ResolvedFinetune, ResolvedRun, Role
from ssmtl_toolkit.config.tracking import grouped
from ssmtl_toolkit.data.files import Waiting, holding, write_json
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.downstream.finetune import finetune
from ssmtl_toolkit.engine.building import check_buildable
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.experiments.contents import Contents, short_digest
from ssmtl_toolkit.experiments.definition import Job
from ssmtl_toolkit.pretraining.pretrain import pretrain
from ssmtl_toolkit.pretraining.verdict import refuse_diverged
from ssmtl_toolkit.runtime.folder import CONFIG, FINETUNE, SUMMARY, chosen_backbone, snapshot, tidy_finished
from ssmtl_toolkit.runtime.interrupt import InterruptedRunError, interrupts
from ssmtl_toolkit.runtime.lines import Lines
from ssmtl_toolkit.runtime.logfile import LogFile
from ssmtl_toolkit.runtime.progress import Progress, Together
from ssmtl_toolkit.specs import TrackerSpec

C = TypeVar("C", ResolvedRun, ResolvedFinetune)

_WAIT = 2.0  # seconds between two looks at what another process is doing


def check_networks(jobs: Iterable[tuple[str, ResolvedRun | None, ResolvedFinetune]]) -> None:
    """Build the network of every job once and forget it, before anything is read; a job is its name and its options.

    Raises:
        UsageError, SsmtlError: naming the job whose network cannot be built.
    """
    built: set[str] = set()
    for name, run, tuning in jobs:
        backbone, tasks = (tuning.backbone, ()) if run is None else (run.backbone, run.tasks)
        if backbone is None or f"{backbone} {tasks}" in built:
            continue
        built.add(f"{backbone} {tasks}")
        try:
            check_buildable(backbone, tasks)
        except SsmtlError as error:
            raise type(error)(f"{name}: {error}") from error


class Runs:
    """The pre-trainings and fine-tunings of jobs, each in a folder named by its options and the contents of its data.

    Equal runs of any jobs are one, and what is finished is not done again.
    """

    def __init__(self, out: Path, cache: Path, progress: Progress, track: Sequence[TrackerSpec] = ()) -> None:
        """`track` are trackers of every run, beside those of its own options."""
        self.out, self.cache = out, cache
        self._log = LogFile(out, waits=True)
        self.progress = Together(progress, Lines(self._log.write))
        self._track = grouped(track, out.name)
        self.contents = Contents(cache)

    def write_split(self, split: Split) -> Path:
        """Write down patients, in a file named by them.

        Raises:
            SsmtlError: the folder cannot be written.
        """
        file = (self.out / "splits" / f"{short_digest(split.to_json())}.json").absolute()
        if read_result(file) != json.loads(json.dumps(split.to_json())):  # missing, or damaged
            write_json(file, split.to_json())
        return file

    def run(self, jobs: Sequence[Job], until: float = math.inf) -> dict[str, str]:
        """Do every job, waiting for those that another process is doing. Returns the jobs that failed, with reasons.

        Args:
            jobs: what to do, in this order.
            until: begin no job when `time.monotonic()` is later than this.

        Raises:
            DataError: data that a job needs cannot be listed.
        """
        self.begin(jobs)
        waiting, failed = list(jobs), dict[str, str]()
        lost: dict[Path, str] = {}  # pre-trainings that failed, and why: other jobs need not try them again
        while waiting:
            busy = []
            for job in waiting:
                if time.monotonic() > until:
                    return failed
                run = self.pretraining(job)
                try:
                    if run in lost:
                        raise SsmtlError(lost[run])
                    try:
                        self.pretrain(job)
                    except SsmtlError as error:
                        if run is not None and not isinstance(error, InterruptedRunError):
                            lost[run] = str(error)
                        raise
                    self.finetune(job)
                except _BusyError:
                    busy.append(job)
                except InterruptedRunError as error:
                    state = str(error).partition(";")[0]
                    raise InterruptedRunError(f"{state}; rerun the command to resume", error.exit_code - 128) from None
                except SsmtlError as error:
                    failed[job.id] = str(error)
                    self.progress.note(f"{job.name} failed: {error}")
            if len(busy) == len(waiting):
                interrupts.check("rerun the command to resume")
                time.sleep(_WAIT)
            waiting = busy
        return failed

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin the log, if the data of all jobs can be listed: others are refused before anything is trained.

        Raises:
            DataError: data that a job needs cannot be listed.
        """
        for job in jobs:
            self.finetuning(job)
        self._log.begin()

    def do(self, part: Callable[[Job], None], job: Job, until: float) -> bool:
        """Do one part of a job, `pretrain` or `finetune`, waiting while another process does it.

        Returns:
            Whether it is done: it is not begun when `time.monotonic()` is later than `until`.
        """
        while time.monotonic() <= until:
            try:
                part(job)
            except _BusyError:
                interrupts.check("rerun the command to resume")
                time.sleep(_WAIT)
            else:
                return True
        return False

    def is_done(self, job: Job) -> bool:
        """Whether nothing of a job is missing."""
        return _repetitions(self.finetuning(job)) >= job.finetune.seeds

    def pretrain(self, job: Job) -> None:
        """Do the pre-training of a job, unless it is done."""
        folder = self.pretraining(job)
        if job.pretrain is None or folder is None or _is_pretrained(folder):
            return
        with self._alone(folder):
            if _is_pretrained(folder):
                return
            self.progress.say(f"\n{job.name}: pre-training in {folder}")
            resume = (folder / CONFIG).is_file()
            pretrain(self._tracked(job.pretrain), out=folder, cache=self.cache, resume=resume, progress=self.progress)

    def finetune(self, job: Job) -> None:
        """Do the fine-tuning of a job, or its missing repetitions."""
        folder, run = self.finetuning(job), self.pretraining(job)
        if self.is_done(job):
            return
        source = job.finetune.source
        if run is not None:
            source = chosen_backbone(run) if job.start is None else snapshot(run, job.start)
            if not source.is_file():
                raise DataError(f"{source}: does not exist; remove {run}, and rerun the command to pre-train again")
        with self._alone(folder):
            if self.is_done(job):
                return
            self.progress.say(f"\n{job.name}: fine-tuning in {folder}")
            config = self._tracked(job.finetune).model_copy(update={"source": source})
            resume = (folder / FINETUNE).is_file()
            finetune(None, config, out=folder, cache=self.cache, resume=resume, progress=self.progress)

    def _tracked(self, config: C) -> C:
        return config.model_copy(update={"track": (*config.track, *self._track)}) if self._track else config

    @contextlib.contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Hold a run for this process.

        Raises:
            _BusyError: another process holds it.
        """
        lock = FileLock(self.lock(folder.name))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise _BusyError from None
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def in_turn(self, name: str) -> Iterator[None]:
        """Hold `name` for this process, after others that do; waiting can be interrupted, and is noted if it is long.

        Raises:
            InterruptedRunError: a signal has come.
        """
        waiting = Waiting(lambda: interrupts.check("rerun the command to resume"), self.progress.note)
        with holding(self.lock(name), waiting):
            yield

    def lock(self, name: str) -> Path:
        """The file by which processes agree on who works at `name`."""
        locks = self.out / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return locks / f"{name}.lock"

    def pretraining(self, job: Job) -> Path | None:
        """The run folder of a job's pre-training; None: it starts from scratch, or from a file."""
        if job.pretrain is None:
            return None
        seen = None if job.pretrain.without is None else job.pretrain.without.stem
        name = "-".join(spec.name for spec in (job.pretrain.backbone, *job.pretrain.tasks))
        digest = short_digest(_identity(job.pretrain), seen, self.contents.images(job.pretrain.data))
        return self.out / "pretrain" / f"{name[:60]}-{digest}"

    def finetuning(self, job: Job) -> Path:
        """The folder of a job's fine-tuning; its split and a source that is a file are named by what they hold."""
        run, source, split = self.pretraining(job), job.finetune.source, job.finetune.split
        start = [run.name, job.start] if run else source and source.stem
        name = f"{job.finetune.head.name}-{run.name[:50] if run else (source and source.stem) or 'scratch'}"
        data, more = job.finetune.data, job.finetune.unlabelled
        contents = [self.contents.images(data), self.contents.labels(data) if job.output == "labels" else ""]
        contents += [] if more is None else [self.contents.images(more)]
        digest = short_digest(_identity(job.finetune), split and split.stem, start, contents)
        return self.out / "finetune" / f"{name}-{digest}"

    def results(self, job: Job) -> dict[str, Any]:
        """The summaries of a job's runs, as `finetune` and `pretrain`; empty if they are not finished."""
        run, tuned = self.pretraining(job), self.finetuning(job)
        found = {
            "finetune": read_result(tuned / SUMMARY),
            "pretrain": {} if run is None else read_result(run / SUMMARY),
        }
        for folder, summary in ((tuned, found["finetune"]), (run, found["pretrain"])):
            if folder is not None and summary:
                tidy_finished(folder)
        return found


class _BusyError(Exception):
    """Another process does this run."""


def _is_pretrained(folder: Path) -> bool:
    """Whether this pre-training is done.

    Raises:
        DivergedError: it is, and diverged.
    """
    summary = read_result(folder / SUMMARY, "tasks")
    refuse_diverged(folder, summary)
    return bool(summary) and chosen_backbone(folder).is_file()


def _repetitions(folder: Path) -> int:
    return len(read_result(folder / SUMMARY, "arms", "metrics").get("seeds", ()))


def _identity(config: Config) -> dict[str, Any]:
    """The options that make a run what it is; where its files are and what it is computed on do not count."""
    return config.of_roles(Role.NUMBERS, Role.EXTENT)
