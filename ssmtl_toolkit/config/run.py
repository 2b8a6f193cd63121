"""Options of `ssmtl run`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, field_serializer, field_validator

from ssmtl_toolkit.config.base import (
    STRONG,
    Config,
    Descent,
    Role,
    Training,
    absolute,
    resolved_preparations,
    with_absolute_paths,
)
from ssmtl_toolkit.config.tracking import Tracking
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.distance import check_unit
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.features import Part, parts_of
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import (
    AugmentationSpec,
    BackboneSpec,
    BalancerSpec,
    DatasetSpec,
    HeadSpec,
    PreparationSpec,
    Spec,
    TaskSpec,
    TrackerSpec,
    check_needs,
)


class RunConfig(Config, Slicing, Training, Descent, Tracking):
    """Options of `ssmtl run`. Specs are given as text or as objects."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Data": (
            *("data", "without", "held_out", "axis", "prepare", "size", "volume", "window", "normalise", "skip_bad"),
        ),
        "Network and tasks": ("backbone", "tasks", "balancer", "head", "source", "prefix", "min_transfer"),
        "Training": (
            *(
                "epochs",
                "steps",
                "batch_size",
                "patients_per_batch",
                "read_order",
                "accumulate",
                "augment",
                "optimizer",
                "lr",
                "schedule",
                "weight_decay",
            ),
            *("clip", "on_nan", "seed"),
        ),
        "Machine": (
            *(
                "precision",
                "accelerator",
                "devices",
                "nodes",
                "strategy",
                "rank_timeout",
                "store",
                "channels_last",
                "checkpoint_activations",
                "compile",
            ),
        ),
        "Probe": ("probe", "probe_every", "probe_slices"),
        "Output": ("checkpoint_every", "keep", "snapshot_every", "log_every", "gradient_norms", "report", "track"),
    }

    data: Annotated[SerializeAsAny[DatasetSpec] | str, Role.PLACE] = Field(
        "phantom", description="Scans: a folder, file, URL, pattern or dataset (phantom, mmwhs:DIR, …); repeatable."
    )
    backbone: SerializeAsAny[BackboneSpec] | str = Field("unet", description="Network, e.g. unet:encoder=resnet18.")
    tasks: tuple[SerializeAsAny[TaskSpec] | str, ...] = Field(
        ("reconstruct_prev", "reconstruct_next"), description="Pretext task, e.g. reconstruct_prev:t=2; repeatable."
    )
    balancer: SerializeAsAny[BalancerSpec] | str = Field("fixed", description="How task losses are combined into one.")
    head: Annotated[SerializeAsAny[HeadSpec] | str | None, Role.RECORD] = Field(
        None, description="Fail early if this head cannot use the parts being trained."
    )
    source: Path | None = Field(
        None, description="Weights to start from: an earlier run, .safetensors, .pth or hf://USER/NAME."
    )
    prefix: str | None = Field(
        None, description="What stands before the names in a file from elsewhere.  [default: found]"
    )
    min_transfer: float | None = Field(
        None, ge=0, le=1, description="Minimum share of the backbone's parameters to load.  [default: the encoder]"
    )
    without: Annotated[Path | None, Role.PLACE] = Field(
        None, description="Skip the test and validation patients of this file (from ssmtl data split)."
    )
    held_out: Literal["auto"] | int = Field(
        "auto",
        description="Scans not trained on, whose loss is watched; auto: 5 % of them, at least one, from 8 scans on.",
    )

    epochs: Annotated[int, Role.EXTENT] = Field(100, ge=1, description="Passes over all anchor slices.")
    steps: Annotated[int | None, Role.EXTENT] = Field(None, ge=1, description="Optimizer steps, instead of epochs.")
    batch_size: int = Field(16, ge=1, le=65536, description="Anchor slices per batch and device.")
    patients_per_batch: int | None = Field(
        None, ge=1, le=65536, description="Patients in each batch, with equally many slices.  [default: as they come]"
    )
    accumulate: int = Field(1, ge=1, le=100_000, description="Batches whose gradients are summed for one step.")
    read_order: Literal["shuffled", "blocks"] = Field(
        "shuffled",
        description="Order of slices in an epoch; blocks: shuffled among neighbouring scans, for slow disks.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything random.")

    compile: Annotated[bool, Role.MACHINE] = Field(False, description="Compile encoder and decoder (torch.compile).")
    devices: Annotated[int, Role.MACHINE] = Field(1, ge=1, le=1024, description="Number of devices on this machine.")
    nodes: Annotated[int, Role.MACHINE] = Field(1, ge=1, le=65536, description="Number of machines.")
    strategy: Annotated[Literal["auto", "ddp", "ddp_find_unused_parameters_true"], Role.MACHINE] = Field(
        "auto", description="How several devices share the work (Lightning Fabric)."
    )
    rank_timeout: Annotated[float, Role.MACHINE] = Field(
        600.0, gt=0, le=1800, description="Seconds that one of several processes may hang before all are ended."
    )
    store: Annotated[Literal["auto", "disk", "ram", "gpu"], Role.MACHINE] = Field(
        "auto", description="Where slices are kept while training; auto: the fastest place they fit in."
    )

    probe: Annotated[SerializeAsAny[DatasetSpec] | str | None, Role.EXTENT] = Field(
        None,
        description="Labelled scans to choose the best step by: fit a linear classifier on its features; repeatable.",
    )
    probe_every: Annotated[int | None, Role.EXTENT] = Field(
        None, ge=1, description="Steps between two probes.  [default: a tenth of all]"
    )
    probe_slices: Annotated[int, Role.EXTENT] = Field(
        20, ge=1, description="Labelled slices to fit on; as many of other patients are scored."
    )

    skip_bad: Annotated[bool, Role.EXTENT] = Field(False, description="Continue without scans that cannot be read.")
    checkpoint_every: Annotated[int, Role.RECORD] = Field(500, ge=1, description="Steps between checkpoints.")
    keep: Annotated[int, Role.RECORD] = Field(2, ge=0, description="Number of checkpoints to keep; 0: all.")
    snapshot_every: Annotated[int | None, Role.EXTENT] = Field(
        None, ge=1, description="Epochs between copies of the backbone, kept in snapshots/."
    )
    log_every: Annotated[int, Role.RECORD] = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    gradient_norms: Annotated[bool, Role.RECORD] = Field(
        False, description="Also log the norm of each task's gradient at the backbone."
    )

    report: Annotated[bool, Role.RECORD] = Field(
        True, description="Draw pictures into samples/, and write report.html at the end."
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _specs_or_texts(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str | TaskSpec) else value
        if not isinstance(value, list | tuple):
            raise ValueError("expected a spec or a list of specs")
        if not all(isinstance(item, str | Spec) for item in value):
            raise ValueError("expected a spec or its text, such as 'name:option=value'")
        return value

    @field_validator("held_out", mode="before")
    @classmethod
    def _auto_or_number(cls, value: Any) -> Any:
        number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value) else value
        if number != "auto" and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
            raise ValueError("expected auto or a whole number, 0 or more")
        return number

    @field_validator("without", "source")
    @classmethod
    def _absolute_file(cls, file: Path | None) -> Path | None:
        return absolute(file)

    @field_serializer("tasks")
    def _texts(self, specs: tuple[TaskSpec | str, ...]) -> list[str]:
        return [spec if isinstance(spec, str) else spec.full() for spec in specs]

    @classmethod
    def of(cls, options: Mapping[str, Any], origin: str = "options") -> Self:
        """Validate options by name; `origin` says in errors where they come from.

        Raises:
            UsageError: with every wrong option at once.
        """
        config = super().of(options, origin)
        if config.steps is not None and "epochs" in options:
            raise UsageError(f"{origin}: both epochs and steps are given; they mean the same; give one")
        return config

    @classmethod
    def gives_way(cls, name: str, flags: Mapping[str, Any]) -> bool:
        """Whether a file's value for this option means the same as one of the `flags` under another name."""
        same = {"epochs": "steps", "steps": "epochs"}
        return name in same and same[name] in flags and name not in flags

    def to_json(self) -> dict[str, Any]:
        """All options that have a value, with specs as their full texts; epochs give way to steps."""
        options = super().to_json()
        if self.steps is not None:
            del options["epochs"]
        return options

    def resolve(self) -> ResolvedRun:
        """Turn texts into specs, check that they go together, and fill in the dataset's suggestions.

        Raises:
            UsageError: an unknown name, a wrong option, a task given twice, a need that is not met.
        """
        plugins = registry()
        dataset = with_absolute_paths(dataset_of(self.data))
        set_here = self.model_fields_set | ({"epochs"} if self.steps is not None else set())
        suggested = {name: value for name, value in dataset.suggested().items() if name not in set_here}
        tasks = tuple(plugins.resolve(TaskSpec, task) for task in self.tasks)
        specs = {
            "data": dataset,
            "backbone": plugins.resolve(BackboneSpec, self.backbone),
            "tasks": tasks,
            "balancer": plugins.resolve(BalancerSpec, self.balancer),
            "prepare": resolved_preparations(suggested.get("prepare", self.prepare)),
            "augment": self.augmentations(STRONG if any(task.views for task in tasks) else ()),
            "head": None if self.head is None else plugins.resolve(HeadSpec, self.head),
            "track": self.trackers(),
            "probe": None if self.probe is None else with_absolute_paths(dataset_of(self.probe)),
        }
        given = {*set_here, *suggested, *specs} - ({"backbone", "prepare"} - set_here - suggested.keys())
        resolved = ResolvedRun.model_construct(given, **{**dict(self), **suggested, **specs})
        resolved.check()
        return resolved


class ResolvedRun(RunConfig):
    """A configuration whose specs are objects that go together; `resolve` returns it."""

    data: Annotated[SerializeAsAny[DatasetSpec], Role.PLACE]
    backbone: SerializeAsAny[BackboneSpec]
    tasks: tuple[SerializeAsAny[TaskSpec], ...]
    balancer: SerializeAsAny[BalancerSpec]
    augment: tuple[SerializeAsAny[AugmentationSpec], ...]
    prepare: tuple[SerializeAsAny[PreparationSpec], ...] = ()
    track: Annotated[tuple[SerializeAsAny[TrackerSpec], ...], Role.RECORD] = ()
    head: Annotated[SerializeAsAny[HeadSpec] | None, Role.RECORD]
    probe: Annotated[SerializeAsAny[DatasetSpec] | None, Role.EXTENT]

    def resolve(self) -> ResolvedRun:
        """Return this."""
        return self

    def check(self) -> None:
        """Refuse specs that do not go together.

        Raises:
            UsageError: no task, a task given twice, nothing to train, a need that is not met.
        """
        if not self.tasks:
            raise UsageError("no pretext task is given; add at least one --task")
        twice = sorted({str(task) for task in self.tasks if self.tasks.count(task) > 1})
        if twice:
            raise UsageError(f"task {twice[0]!r} is given twice; give it once, with a weight=… if it should count more")
        if not any(task.weight for task in self.tasks):
            raise UsageError("every task has weight 0: nothing would be trained; give one of them a weight above 0")
        if self.patients_per_batch and self.patients_per_batch > self.batch_size:
            raise UsageError(
                f"--patients-per-batch {self.patients_per_batch}: a batch has only {self.batch_size} slices; choose at "
                f"most {self.batch_size} patients, or a larger --batch-size"
            )
        if self.patients_per_batch and self.read_order == "blocks":
            raise UsageError("--read-order blocks: which patients a batch holds is its own; omit --patients-per-batch")
        if self.compile and self.checkpoint_activations:
            raise UsageError("--compile decides itself what is computed again; omit it or --checkpoint-activations")
        mixing = [spec.name for spec in self.augment if "batch" in spec.changes]
        if mixing:
            raise UsageError(
                f"augmentation {mixing[0]!r} mixes slices, which then have no companions; it is for ssmtl finetune"
            )
        if self.source is None and (self.prefix is not None or self.min_transfer is not None):
            raise UsageError("--prefix and --min-transfer are for weights to start from; give them with --from")
        if self.probe is None and self.probe_every is not None:
            raise UsageError("--probe-every: there is no probe; give labelled scans with --probe")
        self.check_frames()
        for task in self.tasks:
            check_unit(f"task {str(task)!r}", task, in_time=self.in_time)
        check_needs(self.backbone, [*self.tasks, *([self.head] if self.head else [])])

    @property
    def trained(self) -> list[Part]:
        """The parts of the backbone that the tasks train."""
        return parts_of(feature for task in self.tasks for feature in task.needs)
