"""Runs an experiment, row by row, and writes its table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config.tracking import Tracking
from ssmtl_toolkit.data import split as splitting
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.experiments.definition import Job, ResolvedExperiment
from ssmtl_toolkit.experiments.placed import runs_in
from ssmtl_toolkit.experiments.reading import read_experiment
from ssmtl_toolkit.experiments.runs import Runs, check_networks
from ssmtl_toolkit.experiments.table import compare, write_comparison
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.reporting.ending import report_at_end
from ssmtl_toolkit.runtime.environment import command
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.notebook import default_progress
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.provenance import provenance
from ssmtl_toolkit.runtime.results import Result
from ssmtl_toolkit.sources import Given
from ssmtl_toolkit.specs import Spec, TrackerSpec
from ssmtl_toolkit.text import did_you_mean


class Compared(Result):
    """A finished experiment."""


def experiment(
    source: str | os.PathLike[str] | ResolvedExperiment,
    /,
    *,
    out: str | Path,
    data: Given | Sequence[Given] | None = None,
    quick: bool = False,
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: Sequence[str] = (),
    report: bool = True,
    track: Sequence[str | TrackerSpec] = (),
    cache: str | Path | None = None,
    cluster: str | None = None,
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
        report: write report.html beside the tables.
        track: where each run is recorded too, such as "csv".
        cache: folder for prepared slices; by default the user's cache directory.
        cluster: where the runs are done: `local:4`, the address of a Dask scheduler, `slurm:8` …; by default here.
        progress: is notified of what happens, to show it; by default the output of a notebook's cell.

    Raises:
        UsageError: the file, or an option in it, is wrong; nothing was trained.
        RowsFailedError: rows failed; the others are done, and the table is written.
    """
    progress = progress or default_progress()
    if not isinstance(source, ResolvedExperiment):
        resolved = read_experiment(Path(source), data, quick=quick, settings=settings or {}, seeds=seeds)
    elif data is not None or quick or seeds is not None or settings:
        raise UsageError(
            "an experiment that has already been read takes no data, quick, seeds or settings; read it with them"
        )
    else:
        resolved = source
    wanted, trackers = _chosen(resolved, rows), Tracking(track=tuple(track)).trackers()
    launch()  # one of several processes that nothing connects is refused here, not by each row
    with interrupts:
        check_networks((f"row {job.id!r}", job.pretrain, job.finetune) for job in wanted)
        runs = runs_in(out, cache, progress, trackers, cluster)
        jobs, reasons = _with_patients(resolved, runs)
        failed = runs.run([jobs[job.id] for job in wanted])
        with runs.in_turn(resolved.name):  # the last to write has seen all that is done
            results = {id: {**runs.results(job), "failed": failed.get(id, "")} for id, job in jobs.items()}
            summary = compare(resolved, results, reasons) | {"provenance": _provenance(resolved)}
            write_comparison(runs.out, resolved.name, summary, resolved.write())
            report_at_end(runs.out, report, runs.progress)
    if failed:
        lines = "\n".join(f"row {id!r}: {reason}" for id, reason in failed.items())
        message = (
            f"{len(failed)} of {len(wanted)} rows failed, the others are in {runs.out / resolved.name}.md:\n{lines}"
        )
        raise RowsFailedError(message, summary)
    return Compared(runs.out, summary)


def _provenance(resolved: ResolvedExperiment) -> dict[str, Any]:
    specs: list[Spec] = [resolved.dataset]
    for job in resolved.jobs:
        pretrain, finetune = job.pretrain, job.finetune
        specs += [pretrain.backbone, *pretrain.tasks, pretrain.balancer] if pretrain else []
        specs += [finetune.head, *finetune.augment]
    return {"command": command()} | provenance(specs, sorted({job.finetune.seed for job in resolved.jobs}), "", "")


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


def _with_patients(resolved: ResolvedExperiment, runs: Runs) -> tuple[dict[str, Job], list[str]]:
    """The jobs by their ids, with files that name the patients, and why these make published values incomparable."""
    parts, reasons = resolved.experiment.split, list[str]()
    whole = _split(resolved, runs, reasons)
    file = runs.write_split(whole)
    without = file if parts.pretrain_on == "train" else None
    if parts.score == "validation":
        file = runs.write_split(replace(whole, test=whole.validation, validation=()))
    jobs = {}
    for job in resolved.jobs:
        pretrain = job.pretrain and job.pretrain.model_copy(update={"without": without})
        finetune = job.finetune.model_copy(update={"split": file})
        jobs[job.id] = replace(job, pretrain=pretrain, finetune=finetune)
    return jobs, reasons


def _split(resolved: ResolvedExperiment, runs: Runs, reasons: list[str]) -> Split:
    """Split the patients of the labelled scans: in the given order, or at random; adds to `reasons`."""
    parts, dataset, progress = resolved.experiment.split, resolved.dataset, runs.progress
    scans = runs.contents.scans(dataset)
    if resolved.jobs[0].output == "labels":
        scans = [scan for scan in scans if scan.label]
    pattern = resolved.jobs[0].finetune.patient
    scans, notes = splitting.with_patients(scans, pattern)
    for note in notes:
        progress.note(note)
    if not scans:
        raise DataError(f"{dataset}: none of its scans has a label map; check --data")
    if not parts.order:
        test = splitting.fitting(len(scans), parts.train, parts.validation, parts.test)
        if test != parts.test:
            reasons.append(f"{test} scans to test on, not {parts.test}")
            progress.note(f"{len(scans)} labelled scans: {test} to test on, not {parts.test}")
        return splitting.make(scans, test, parts.validation, parts.seed, pattern)
    try:
        split = splitting.in_order(scans, parts.order, parts.train, parts.validation, parts.test, pattern)
    except DataError as error:
        raise DataError(f"{dataset}: {error}; check --data") from None
    if parts.test is not None and len(split.test) < parts.test:
        reasons.append(f"{len(split.test)} patients to test on, not {parts.test}")
        progress.note(f"{reasons[-1]}: the others are not in the data")
    return split
