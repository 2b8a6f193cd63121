"""What an experiment is: rows of pre-training and fine-tuning to compare, written in TOML, read without torch."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ssmtl_toolkit.config import FinetuneConfig, ResolvedFinetune, ResolvedRun, RunConfig, with_absolute_paths
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, DatasetSpec, Output, TaskSpec
from ssmtl_toolkit.text import did_you_mean, printable

_SET_BY_US = {"data", "backbone", "source", "split", "baseline", "validation_scans", "test_scans"}
_ONE_OF = {"steps": "epochs", "epochs": "steps"}


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Row(_Table):
    """One line of the table, or one for each of its snapshots."""

    name: str = Field("", description="Its name in the table; {epoch} stands for the snapshot's.")
    backbone: str = Field("unet", description="A backbone, or a name from [backbones].")
    tasks: tuple[str, ...] = Field((), description="Pretext tasks; none: from scratch.")
    snapshots: tuple[int, ...] = Field((), description="Epochs of pre-training to fine-tune after, a line for each.")
    pretrain: dict[str, Any] = Field({}, description="Options of ssmtl run, over those of [pretrain].")
    finetune: dict[str, Any] = Field({}, description="Options of ssmtl finetune, over those of [finetune].")
    published: dict[str, float] = Field({}, description="Published value by column: class names and mean.")

    @field_validator("snapshots")
    @classmethod
    def _epochs(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if any(epoch < 1 for epoch in epochs) or len(set(epochs)) < len(epochs):
            raise ValueError("expected different epochs, 1 or later")
        return epochs


class SplitOptions(_Table):
    """Which patients are trained on and tested on; the same for all rows."""

    train: int | None = Field(None, ge=1, description="Labelled scans to fine-tune on; by default all the others.")
    validation: int = Field(0, ge=0, description="Labelled scans to choose options by.")
    test: int | None = Field(None, ge=1, description="Labelled scans to test on; by default a fifth of the patients.")
    order: tuple[str, ...] = Field((), description="Patients: the first train, the next validate, the others test.")
    seed: int = Field(0, ge=0, description="Another seed draws other patients, unless there is an order.")
    score: Literal["test", "validation"] = Field("test", description="Which part is tested on.")
    pretrain_on: Literal["all", "train"] = Field(
        "all", description="Whether pre-training sees (without labels) the scans of validation and test too."
    )

    @model_validator(mode="after")
    def _something_to_score(self) -> Self:
        if self.score == "validation" and not self.validation:
            raise ValueError("score = 'validation' needs validation scans")
        return self


class Experiment(_Table):
    """A table: what is common to its rows, and the rows."""

    title: str = Field("", description="What is compared.")
    data: str | None = Field(None, description="Labelled scans; a path is relative to the file.")
    dataset: dict[str, Any] = Field({}, description="Options of the dataset, unless they are given with it.")
    published_on: str = Field("", description="The dataset that published values are for.")
    split: SplitOptions = SplitOptions()
    backbones: dict[str, str] = Field({}, description="Names for backbones, for the rows.")
    pretrain: dict[str, Any] = Field({}, description="Options of ssmtl run.")
    finetune: dict[str, Any] = Field({}, description="Options of ssmtl finetune.")
    not_comparable_because: tuple[str, ...] = Field(
        (), description="Why published values are not comparable with ours."
    )
    rows: dict[str, Row] = Field(min_length=1, description="The lines of the table, by short names.")


@dataclass(frozen=True)
class Job:
    """One line of the table, resolved: what to pre-train, where to start from, what to fine-tune.

    Attributes:
        id: the row's short name, with @epoch for a snapshot.
        pretrain: None: from scratch.
        snapshot: the epoch of pre-training to start from; None: its end.
        finetune: its source is a placeholder and its split missing: they are known when the run is finished.
    """

    id: str
    name: str
    pretrain: ResolvedRun | None
    snapshot: int | None
    finetune: ResolvedFinetune
    published: Mapping[str, float]

    @property
    def start(self) -> int | None:
        """The epoch to start from, None for the end of pre-training, be it written as an epoch or not."""
        at_end = self.pretrain and self.pretrain.steps is None and self.snapshot == self.pretrain.epochs
        return None if at_end else self.snapshot

    @property
    def output(self) -> Output:
        """What the head gives: labels or image."""
        return self.finetune.head.output


@dataclass(frozen=True)
class ResolvedExperiment:
    """An experiment ready to run.

    Attributes:
        name: of the file, without its suffix.
    """

    name: str
    experiment: Experiment
    dataset: DatasetSpec
    jobs: tuple[Job, ...]

    @property
    def not_comparable_because(self) -> tuple[str, ...]:
        """Why published values are not comparable, in words; empty if they are."""
        return self.experiment.not_comparable_because

    def write(self) -> str:
        """Return the resolved experiment as TOML: it means the same without overlays."""
        content = self.experiment.model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps({**content, "data": self.dataset.full()})


def read_experiment(
    file: Path,
    data: str | None = None,
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
    document = _read(file)
    overlays = {key: document.pop(key, {}) for key in ("on", "quick")}
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
    dataset = _dataset(document, data, file)
    over = [overlays["quick"], *overlays["on"].values(), *(_nested(*setting) for setting in settings.items())]
    _check_rows(document, over, where)
    document = _merged(document, overlays["on"].get(dataset.name, {}), where)
    if quick:
        document = _merged(document, overlays["quick"], where)
    for key, value in settings.items():
        document = _merged(document, _nested(key, value), where)
    if seeds is not None:
        document = _merged(document, {"finetune": {"seeds": seeds}}, where)
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


def _read(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a TOML file over its `base`."""
    if not file.is_file():
        raise UsageError(f"{printable(file)}: no such file; give the TOML file of an experiment")
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{printable(file)}: cannot be read as an experiment: {error}") from None
    base = document.pop("base", None)
    if base is None:
        return document
    under = file.parent / str(base)
    if under.resolve() in seen:
        raise UsageError(f"{printable(file)}: its base {base!r} leads back to itself")
    return _merged(_read(under, (*seen, file.resolve())), document, printable(file))


def _merged(under: Mapping[str, Any], over: Any, where: str) -> dict[str, Any]:
    """Lay one document over another, table by table; of steps and epochs, which mean the same, the upper one wins."""
    if not isinstance(over, Mapping):
        raise UsageError(f"{where}: expected a table, got {over!r}")
    merged = {k: v for k, v in under.items() if _ONE_OF.get(k) not in over or isinstance(v, Mapping)}
    for key, value in over.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merged(merged[key], value, where) if both else value
    return merged


def _check_rows(document: Mapping[str, Any], overlays: Sequence[Any], where: str) -> None:
    """Refuse overlays that refer to rows that do not exist, or to other data."""
    rows = document.get("rows", {})
    for overlay in overlays:
        over = overlay if isinstance(overlay, dict) else {}
        if "data" in over:
            raise UsageError(f"{where}: an overlay or --set names other data; give them with --data")
        for name in over["rows"] if isinstance(over.get("rows"), dict) else ():
            if name not in rows:
                raise UsageError(f"{where}: an overlay or --set refers to row {name!r}{did_you_mean(name, rows)}")


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _validated(document: Mapping[str, Any], where: str) -> Experiment:
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(e, where) for e in error.errors())) from None


def _explain(error: Any, where: str) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        kinds: dict[str, type[_Table]] = {"rows": Row, "split": SplitOptions}
        inside = kinds[str(error["loc"][0])] if len(error["loc"]) > 1 else Experiment
        return f"{where}: no key {place!r}{did_you_mean(str(error['loc'][-1]), inside.model_fields)}"
    if error["type"] == "missing":
        return f"{where}: {place!r} is missing"
    return f"{where}: {place}: {error['msg'].removeprefix('Value error, ')}, got {error['input']!r}"


def _dataset(document: Mapping[str, Any], given: str | None, file: Path) -> DatasetSpec:
    """The dataset that is given, or that of the file, whose paths are relative to it."""
    if given is not None:
        return registry().dataset(given)
    if not isinstance(document.get("data"), str):
        raise UsageError(f"{printable(file)}: names no data; give them with --data")
    spec = registry().dataset(document["data"])
    paths = {k: file.parent / v.expanduser() for k, v in spec if isinstance(v, Path)}
    return spec.model_copy(update=paths)


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
        options = _merged(experiment.pretrain, row.pretrain, where) | {"data": dataset, "backbone": backbone}
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
