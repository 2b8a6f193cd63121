"""From the TOML file of an experiment to rows whose options are checked; nothing is trained, torch is not needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ssmtl_toolkit.config import FinetuneConfig, RunConfig, with_absolute_paths
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.experiments.definition import Experiment, Job, ResolvedExperiment, Row, SplitOptions, Table
from ssmtl_toolkit.experiments.overlays import check_rows, merged, nested, read_document
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.sources import Given, dataset_of
from ssmtl_toolkit.specs import BackboneSpec, DatasetSpec, TaskSpec
from ssmtl_toolkit.text import did_you_mean, printable

_SET_BY_US = {"data", "backbone", "source", "split", "fold", "folds", "baseline", "validation_scans", "test_scans"}


def read_experiment(
    file: Path,
    data: Given | Sequence[Given] | None = None,
    *,
    quick: bool = False,
    settings: Mapping[str, Any] = {},
    seeds: int | None = None,
) -> ResolvedExperiment:
    """Read an experiment, apply its overlays, and check every row; nothing is trained.

    Over the file's own tables come those of its `base` file (under it), then `[on.DATASET]` for the dataset at hand,
    then `[quick]`, then `settings` such as `{"pretrain.epochs": 10}`, each saying only what differs.

    Raises:
        UsageError: naming the file and what is wrong: a key, a row, an option of a row.
    """
    where = printable(file)
    document = read_document(file)
    overlays = {key: document.pop(key, {}) for key in ("on", "quick")}
    _check_overlays(overlays, quick, where)
    dataset = _dataset(document, data, file)
    given = [nested(*setting) for setting in settings.items()]
    check_rows(document, [overlays["quick"], *overlays["on"].values(), *given], where)
    given += [{"finetune": {"seeds": seeds}}] if seeds is not None else []
    for overlay in (overlays["on"].get(dataset.name, {}), overlays["quick"] if quick else {}, *given):
        document = merged(document, overlay, where)
    experiment = _validated(document, where)
    explicit = {name: getattr(dataset, name) for name in dataset.model_fields_set & experiment.dataset.keys()}
    dataset = with_absolute_paths(_with_options(dataset, experiment.dataset))
    jobs = [job for key, row in experiment.rows.items() for job in _jobs(experiment, key, row, dataset, where)]
    if len({job.output for job in jobs}) > 1:
        raise UsageError(f"{where}: heads that give labels and heads that give images cannot share a table; make two")
    reasons = [
        *experiment.not_comparable_because,
        *([f"other data ({dataset.name})"] if experiment.published_on not in ("", dataset.name) else []),
        *(["--quick"] if quick else []),
        *(f"{key} = {value}" for key, value in settings.items()),
        *(f"{dataset.name}'s {k} = {v}" for k, v in explicit.items() if v != experiment.dataset[k]),
    ]
    experiment = experiment.model_copy(update={"not_comparable_because": tuple(dict.fromkeys(reasons))})
    return ResolvedExperiment(file.stem, experiment, dataset, tuple(_sharing(jobs)))


def _check_overlays(overlays: Mapping[str, Any], quick: bool, where: str) -> None:
    """Refuse overlays that are no tables, are for an unknown dataset, or are asked for and missing."""
    for key, overlay in overlays.items():
        if not isinstance(overlay, dict):
            raise UsageError(f"{where}: [{key}] must be a table")
    for name in overlays["on"]:
        try:
            registry().find(DatasetSpec, name)
        except UsageError as error:
            raise UsageError(f"{where}: [on.{name}]: {error}") from None
    if quick and not overlays["quick"]:
        raise UsageError(f"{where}: has no table [quick] that says what a quick run is; omit --quick")


def _validated(document: Mapping[str, Any], where: str) -> Experiment:
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(e, where) for e in error.errors())) from None


def _explain(error: Any, where: str) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        kinds: dict[str, type[Table]] = {"rows": Row, "split": SplitOptions}
        inside = kinds[str(error["loc"][0])] if len(error["loc"]) > 1 else Experiment
        return f"{where}: no key {place!r}{did_you_mean(str(error['loc'][-1]), inside.model_fields)}"
    if error["type"] == "missing":
        return f"{where}: {place!r} is missing"
    return f"{where}: {place}: {error['msg'].removeprefix('Value error, ')}, got {error['input']!r}"


def _dataset(document: Mapping[str, Any], given: Given | Sequence[Given] | None, file: Path) -> DatasetSpec:
    """The dataset that is given, or that of the file, whose paths are relative to it."""
    if given is not None:
        return dataset_of(given)
    if not isinstance(document.get("data"), str | list):
        raise UsageError(f"{printable(file)}: names no data; give them with --data")
    return dataset_of(document["data"], file.parent)


def _with_options(dataset: DatasetSpec, options: Mapping[str, Any]) -> DatasetSpec:
    """Fill in the options that were not given with the dataset."""
    explicit = {name: getattr(dataset, name) for name in dataset.model_fields_set}
    try:
        return type(dataset).model_validate({**options, **explicit})
    except ValidationError as error:
        raise UsageError("\n".join(f"[dataset] {dataset._explain(e)}" for e in error.errors())) from None


def _jobs(experiment: Experiment, key: str, row: Row, dataset: DatasetSpec, where: str) -> list[Job]:
    """The lines of one row, all options checked."""
    for table, reserved in (("pretrain", {"data", "backbone", "tasks", "without"}), ("finetune", _SET_BY_US)):
        for wrong in sorted(reserved & {*getattr(experiment, table), *getattr(row, table)}):
            raise UsageError(f"{where}: [{table}] {wrong} is set by the experiment itself; omit it")
    if row.snapshots and not row.tasks:
        raise UsageError(f"{where}: row {key!r} has snapshots but no tasks; there is nothing to take them from")
    try:
        backbone = registry().resolve(BackboneSpec, experiment.backbones.get(row.backbone, row.backbone))
        tasks = tuple(registry().resolve(TaskSpec, task) for task in row.tasks)
        options = merged(experiment.pretrain, row.pretrain, where) | {"data": dataset, "backbone": backbone}
        if row.snapshots:
            options.setdefault("snapshot_every", math.gcd(*row.snapshots))
        run = RunConfig.of({**options, **({"tasks": tasks} if tasks else {})}).resolve()
        if run.devices * run.nodes > 1:
            raise UsageError("rows train on one device each, not several devices; start the command once for each GPU")
        same_slices = dict(run.slicing)  # from scratch too: all rows see the same slices
        tuning = {**same_slices, **experiment.finetune, **row.finetune, "data": run.data, "backbone": backbone}
        tuning |= {"source": Path("pretraining")} if tasks else {}
        if experiment.split.train is not None:
            tuning.setdefault("train_scans", experiment.split.train)
        finetune = FinetuneConfig.of(tuning).resolve()
    except UsageError as error:
        raise UsageError(f"{where}: row {key!r}: {error}") from None
    if any(epoch % (run.snapshot_every or epoch) for epoch in row.snapshots):
        raise UsageError(
            f"{where}: row {key!r}: its snapshots are not multiples of snapshot_every {run.snapshot_every}"
        )
    if row.snapshots and run.steps is not None:
        raise UsageError(f"{where}: row {key!r}: snapshots are after epochs; give its pre-training epochs, not steps")
    if row.snapshots and max(row.snapshots) > run.epochs:
        raise UsageError(f"{where}: row {key!r}: has snapshots after its {run.epochs} epochs of pre-training")
    name, pretrain = row.name or key, run if tasks else None
    if not row.snapshots:
        return [Job(key, name, pretrain, None, finetune, row.published)]
    return [
        Job(f"{key}@{epoch}", name.replace("{epoch}", str(epoch)), pretrain, epoch, finetune, row.published)
        for epoch in row.snapshots
    ]


def _sharing(jobs: Sequence[Job]) -> list[Job]:
    """Merge pre-trainings that differ only in their snapshots into one, with the snapshots of all."""
    every: dict[str, int] = {}
    for job in jobs:
        if job.pretrain is not None:
            every[_apart_from_snapshots(job)] = math.gcd(
                every.get(_apart_from_snapshots(job), 0), job.pretrain.snapshot_every or 0
            )
    shared_jobs = []
    for job in jobs:
        if job.pretrain is not None:
            shared = every[_apart_from_snapshots(job)] or None
            job = replace(job, pretrain=job.pretrain.model_copy(update={"snapshot_every": shared}))
        shared_jobs.append(job)
    return shared_jobs


def _apart_from_snapshots(job: Job) -> str:
    assert job.pretrain is not None
    return job.pretrain.model_copy(update={"snapshot_every": None}).write()
