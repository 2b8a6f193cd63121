"""Runs an experiment, row by row: what is finished stays, several processes share the work, the table is written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssmtl_toolkit.config import Config, Role
from ssmtl_toolkit.data import split as splitting
from ssmtl_toolkit.data.files import DigestMemo, write_json
from ssmtl_toolkit.data.readers import joined_digests
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.downstream.finetune import finetune
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.experiments.definition import Job, ResolvedExperiment
from ssmtl_toolkit.experiments.reading import read_experiment
from ssmtl_toolkit.experiments.table import compare, write_comparison
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.pretraining.pretrain import pretrain
from ssmtl_toolkit.pretraining.verdict import refuse_diverged
from ssmtl_toolkit.runtime.folder import CONFIG, FINETUNE, SUMMARY, chosen_backbone, snapshot
from ssmtl_toolkit.runtime.interrupt import InterruptedRunError, interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.results import Result
from ssmtl_toolkit.runtime.scans import default_cache, installed_readers, list_scans
from ssmtl_toolkit.text import did_you_mean

_WAIT = 2.0  # seconds between two looks at what another process is doing


class Compared(Result):
    """A finished experiment."""


def experiment(
    source: str | os.PathLike[str] | ResolvedExperiment,
    /,
    *,
    out: str | Path,
    data: str | None = None,
    quick: bool = False,
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: Sequence[str] = (),
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Compared:
    """Pre-train, fine-tune and test every row of an experiment, and compare them.

    What `out` already holds is not done again: neither a pre-training that other rows or other experiments share, nor a
    finished row. Processes that are given the same `out` share the work.

    Args:
        source: the TOML file, or what `read_experiment` made of it; then data, quick, seeds and settings are its own.
        out: folder for the runs (`pretrain/`, `finetune/`) and the tables (NAME.md, .csv, .json).
        data: labelled scans, instead of those that the file names.
        quick: as the file's table [quick] says.
        seeds: repetitions of each fine-tuning.
        settings: other values for keys of the file, such as {"pretrain.epochs": 10}.
        rows: short names of the rows to do; all others stay as they are.
        cache: folder for prepared slices; by default the user's cache directory.
        progress: is notified of what happens, to show it.

    Raises:
        UsageError: the file, or an option in it, is wrong; nothing was trained.
        RowsFailedError: rows failed; the others are done, and the table is written.
    """
    progress = progress or Progress()
    if not isinstance(source, ResolvedExperiment):
        resolved = read_experiment(Path(source), data, quick=quick, settings=settings or {}, seeds=seeds)
    elif data is not None or quick or seeds is not None or settings:
        raise UsageError(
            "an experiment that has already been read takes no data, quick, seeds or settings; read it with them"
        )
    else:
        resolved = source
    wanted = _chosen(resolved, rows)
    launch()  # one of several processes that nothing connects is refused here, not by each row
    with interrupts:
        work = _Work(resolved, Path(out).absolute(), Path(cache) if cache else default_cache(), progress)
        failed = work.run(wanted)
        with FileLock(work.out / "locks" / f"{resolved.name}.lock"):  # the last to write has seen all that is done
            summary = work.summary(failed)
            write_comparison(work.out, resolved.name, summary, resolved.write())
    if failed:
        reasons = "\n".join(f"row {id!r}: {reason}" for id, reason in failed.items())
        message = (
            f"{len(failed)} of {len(wanted)} rows failed, the others are in {work.out / resolved.name}.md:\n{reasons}"
        )
        raise RowsFailedError(message, summary)
    return Compared(work.out, summary)


class RowsFailedError(SsmtlError):
    """Rows failed; `summary` compares the others."""

    def __init__(self, message: str, summary: dict[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary


def _chosen(resolved: ResolvedExperiment, rows: Sequence[str]) -> list[Job]:
    known: dict[str, list[Job]] = {}
    for job in resolved.jobs:
        for name in dict.fromkeys((job.id.partition("@")[0], job.id)):
            known.setdefault(name, []).append(job)
    for row in rows:
        if row not in known:
            raise UsageError(f"no row {row!r}{did_you_mean(row, known)} (known: {', '.join(known)}); check --row")
    return list({job.id: job for row in rows for job in known[row]}.values()) if rows else list(resolved.jobs)


class _Work:
    """The runs of one experiment, below one folder."""

    def __init__(self, resolved: ResolvedExperiment, out: Path, cache: Path, progress: Progress) -> None:
        self.resolved, self.out, self.cache, self.progress = resolved, out, cache, progress
        self.not_comparable_because: list[str] = []
        parts = resolved.experiment.split
        whole = self._split()
        self.split = self._written(whole)
        self.without = self.split if parts.pretrain_on == "train" else None
        if parts.score == "validation":
            self.split = self._written(replace(whole, test=whole.validation, validation=()))

    def _split(self) -> Split:
        """Split the patients of the labelled scans: in the given order, or at random."""
        parts = self.resolved.experiment.split
        scans = [scan for scan in list_scans(self.resolved.dataset, self.cache) if not scan.unfit]
        self.images = self._contents({scan.name: scan.paths for scan in scans})
        self.unlabelled = {
            dataset: self._contents({scan.name: scan.paths for scan in list_scans(dataset, self.cache)})
            for dataset in dict.fromkeys(job.finetune.unlabelled for job in self.resolved.jobs)
            if dataset is not None
        }
        self.labels = ""
        if self.resolved.jobs[0].output == "labels":
            scans = [scan for scan in scans if scan.label]
            contents = self._contents({scan.name: [scan.label] for scan in scans if scan.label})
            annotated = {scan.name: scan.annotated for scan in scans}
            self.labels = _digest(contents, annotated, dict(self.resolved.dataset.classes()))
        pattern = self.resolved.jobs[0].finetune.patient
        scans, notes = splitting.with_patients(scans, pattern)
        for note in notes:
            self.progress.note(note)
        if not scans:
            raise DataError(f"{self.resolved.dataset}: none of its scans has a label map; check --data")
        if not parts.order:
            test = splitting.fitting(len(scans), parts.train, parts.validation, parts.test)
            if test != parts.test:
                self.not_comparable_because.append(f"{test} scans to test on, not {parts.test}")
                self.progress.note(f"{len(scans)} labelled scans: {test} to test on, not {parts.test}")
            return splitting.make(scans, test, parts.validation, parts.seed, pattern)
        try:
            split = splitting.in_order(scans, parts.order, parts.train, parts.validation, parts.test, pattern)
        except DataError as error:
            raise DataError(f"{self.resolved.dataset}: {error}; check --data") from None
        if parts.test is not None and len(split.test) < parts.test:
            self.not_comparable_because.append(f"{len(split.test)} patients to test on, not {parts.test}")
            self.progress.note(f"{self.not_comparable_because[-1]}: the others are not in the data")
        return split

    def _contents(self, files: Mapping[str, Sequence[Path]]) -> str:
        """A digest of files by the names of their scans: with other contents, it is another run."""
        memo, readers, digests = DigestMemo(self.cache / "digests.json"), installed_readers(), {}
        for name, paths in files.items():
            try:
                digests[name] = joined_digests([readers.digest(path, memo) for path in paths])
            except DataError:  # the runs themselves say what is wrong with it
                digests[name] = "unreadable"
        memo.save()
        return _digest(digests)

    def _written(self, split: Split) -> Path:
        file = (self.out / "splits" / f"{_digest(split.to_json())}.json").absolute()
        if not file.is_file():
            try:
                write_json(file, split.to_json())
            except OSError as error:
                raise SsmtlError(f"{self.out}: cannot be written ({error.strerror}); choose another --out") from error
        return file

    def run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Do every job, waiting for those that another process is doing. Returns the jobs that failed, with reasons."""
        waiting, failed = list(jobs), dict[str, str]()
        lost: dict[Path, str] = {}  # pre-trainings that failed, and why: other rows need not try them again
        while waiting:
            busy = []
            for job in waiting:
                run = self.pretraining(job)
                try:
                    if run in lost:
                        raise SsmtlError(lost[run])
                    try:
                        self._pretrain(job)
                    except SsmtlError as error:
                        if run is not None and not isinstance(error, InterruptedRunError):
                            lost[run] = str(error)
                        raise
                    self._finetune(job)
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

    def _pretrain(self, job: Job) -> None:
        """Do the pre-training of a job, unless it is done."""
        folder = self.pretraining(job)
        if job.pretrain is None or folder is None or self._is_pretrained(folder):
            return
        with self._alone(folder):
            if self._is_pretrained(folder):
                return
            self.progress.say(f"\n{job.name}: pre-training in {folder}")
            config = job.pretrain.model_copy(update={"without": self.without})
            resume = (folder / CONFIG).is_file()
            pretrain(config, out=folder, cache=self.cache, resume=resume, progress=self.progress)

    @staticmethod
    def _is_pretrained(folder: Path) -> bool:
        """Whether this pre-training is done.

        Raises:
            DivergedError: it is, and diverged.
        """
        refuse_diverged(folder, _read(folder / SUMMARY))
        return (folder / SUMMARY).is_file()

    def _finetune(self, job: Job) -> None:
        """Do the fine-tuning of a job, or its missing repetitions."""
        folder, run = self.finetuning(job), self.pretraining(job)
        if self._repetitions(folder) >= job.finetune.seeds:
            return
        source = None
        if run is not None:
            source = chosen_backbone(run) if job.start is None else snapshot(run, job.start)
            if not source.is_file():
                raise DataError(f"{source}: does not exist; remove {run}, and rerun the command to pre-train again")
        with self._alone(folder):
            if self._repetitions(folder) >= job.finetune.seeds:
                return
            self.progress.say(f"\n{job.name}: fine-tuning in {folder}")
            config = job.finetune.model_copy(update={"source": source, "split": self.split})
            resume = (folder / FINETUNE).is_file()
            finetune(None, config, out=folder, cache=self.cache, resume=resume, progress=self.progress)

    @contextlib.contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Hold a run for this process.

        Raises:
            _BusyError: another process holds it.
        """
        locks = self.out / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{folder.name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise _BusyError from None
        try:
            yield
        finally:
            lock.release()

    def pretraining(self, job: Job) -> Path | None:
        """The run folder of a job's pre-training, named by its content: equal ones share a folder."""
        if job.pretrain is None:
            return None
        seen = None if self.without is None else self.without.stem
        name = "-".join(spec.name for spec in (job.pretrain.backbone, *job.pretrain.tasks))
        return self.out / "pretrain" / f"{name[:60]}-{_digest(_identity(job.pretrain), seen, self.images)}"

    def finetuning(self, job: Job) -> Path:
        """The folder of a job's fine-tuning."""
        run = self.pretraining(job)
        start = None if run is None else [run.name, job.start]
        name = f"{job.finetune.head.name}-{'scratch' if run is None else run.name[:50]}"
        more = job.finetune.unlabelled
        contents = [self.images, self.labels, *([] if more is None else [self.unlabelled[more]])]
        what = _digest(_identity(job.finetune), self.split.stem, start, contents)
        return self.out / "finetune" / f"{name}-{what}"

    @staticmethod
    def _repetitions(folder: Path) -> int:
        return len(_read(folder / SUMMARY).get("seeds", ()))

    def summary(self, failed: Mapping[str, str]) -> dict[str, Any]:
        """Compare what is finished."""
        results = {}
        for job in self.resolved.jobs:
            run = self.pretraining(job)
            results[job.id] = {
                "finetune": _read(self.finetuning(job) / SUMMARY),
                "pretrain": {} if run is None else _read(run / SUMMARY),
                "failed": failed.get(job.id, ""),
            }
        return compare(self.resolved, results, self.not_comparable_because)


class _BusyError(Exception):
    """Another process does this run."""


def _identity(config: Config) -> dict[str, Any]:
    """The options that make a run what it is; where its files are and what it is computed on do not count."""
    return config.of_roles(Role.NUMBERS, Role.EXTENT)


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _read(file: Path) -> dict[str, Any]:
    """The summary of a finished run; empty if there is none."""
    if not file.is_file():
        return {}
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
