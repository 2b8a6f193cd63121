"""Everything a pre-training run can be told, as one validated object: the flags, run.toml and Python share it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.names import printable
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import (
    BackboneSpec,
    BalancerSpec,
    DatasetSpec,
    Spec,
    TaskSpec,
    check_needs,
    did_you_mean,
)

RESUMABLE = frozenset({"epochs", "steps", "checkpoint_every", "log_every", "keep", "data", "store", "skip_bad"})
RESUMABLE |= {"accelerator", "devices", "nodes", "strategy", "compile", "channels_last"}
"""What may differ when a run goes on: how long, what is kept, where the scans lie (their contents are compared), and on
which machine (then not bit for bit)."""


class RunConfig(BaseModel):
    """Options of `ssmtl run`. Specs are given as text or as objects."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    data: SerializeAsAny[DatasetSpec] | str = Field(
        "phantom", description="Folder or file of scans, or a dataset by name: phantom, mmwhs:DIR …"
    )
    backbone: SerializeAsAny[BackboneSpec] | str = Field("unet", description="The network, e.g. unet:encoder=resnet18.")
    tasks: tuple[SerializeAsAny[TaskSpec] | str, ...] = Field(
        ("reconstruct_prev", "reconstruct_next"),
        description="A pretext task, e.g. reconstruct_prev:t=2; repeat it.",
    )
    balancer: SerializeAsAny[BalancerSpec] | str = Field("fixed", description="How the losses become one.")

    axis: Literal["axial", "coronal", "sagittal", "acquisition"] = Field(
        "acquisition", description="Which way slices are cut; acquisition: as scanned."
    )
    size: int = Field(256, ge=8, description="Slices are resized to size x size pixels; phantom: 64.")
    volume: int | None = Field(None, ge=0, description="Which volume to take of 4-D files, counted from 0.")
    window: tuple[float, float] | None = Field(
        None, description="Clip intensities to LOW HIGH first, e.g. -1000 1000 HU."
    )

    epochs: int = Field(100, ge=1, description="How often every anchor slice is seen; phantom: 3, mmwhs MR: 400.")
    steps: int | None = Field(None, ge=1, description="Number of weight updates, instead of epochs.")
    batch_size: int = Field(16, ge=1, description="Anchor slices in a batch, per device.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are summed up for one update.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of Adam, fixed.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of Adam (L2).")
    clip: float | None = Field(None, gt=0, description="Clip the gradient's norm to this.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything random.")

    precision: Literal["auto", "32", "bf16"] = Field(
        "auto", description="auto: bf16 on a GPU that has it, 32 elsewhere."
    )
    channels_last: Literal["auto", "on", "off"] = Field("auto", description="Memory layout; auto: on for GPUs.")
    compile: bool = Field(False, description="Compile encoder and decoder (torch.compile).")
    accelerator: str = Field("auto", description="auto, cpu, cuda, mps (Lightning Fabric).")
    devices: int = Field(1, ge=1, description="Number of devices on this machine.")
    nodes: int = Field(1, ge=1, description="Number of machines.")
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = Field(
        "auto", description="How several devices share the work (Lightning Fabric)."
    )
    store: Literal["auto", "disk", "ram", "gpu"] = Field(
        "auto", description="Where slices are kept while training; auto: the fastest place they fit in."
    )

    skip_bad: bool = Field(False, description="Go on without scans that cannot be read.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=0, description="How many checkpoints to keep; 0: all.")
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")

    @field_validator("data", "backbone", "balancer", "tasks", mode="before")
    @classmethod
    def _spec_or_text(cls, given: Any, info: ValidationInfo) -> Any:
        many = info.field_name == "tasks"
        if many and not isinstance(given, list | tuple):
            raise ValueError("expected a list of specs")
        for item in given if many else [given]:
            if not isinstance(item, str | Spec):
                raise ValueError("expected a spec or its text, such as 'name:option=value'")
        return given

    @field_validator("window")
    @classmethod
    def _low_below_high(cls, given: tuple[float, float] | None) -> tuple[float, float] | None:
        if given is not None and given[0] >= given[1]:
            raise ValueError("LOW must be below HIGH")
        return given

    @field_serializer("data", "backbone", "balancer")
    def _text(self, spec: Spec | str) -> str:
        return spec if isinstance(spec, str) else spec.full()

    @field_serializer("tasks")
    def _texts(self, specs: tuple[TaskSpec | str, ...]) -> list[str]:
        return [spec if isinstance(spec, str) else spec.full() for spec in specs]

    @classmethod
    def of(cls, options: Mapping[str, Any], source: str = "options") -> Self:
        """Validate options by name.

        Raises:
            UsageError: with every wrong option at once.
        """
        try:
            config = cls.model_validate(dict(options))
        except ValidationError as error:
            raise UsageError("\n".join(cls._explain(e, source) for e in error.errors())) from None
        if config.steps is not None and "epochs" in options:
            raise UsageError(f"{source}: both epochs and steps are given; they say the same, give one")
        return config

    @classmethod
    def _explain(cls, error: Any, source: str) -> str:
        name = str(error["loc"][0]) if error["loc"] else ""
        if error["type"] == "extra_forbidden":
            return f"{source}: no option {name!r}{did_you_mean(name, cls.model_fields)}"
        return f"{source}: {name}: {error['msg'].removeprefix('Value error, ')}, got {error['input']!r}"

    @classmethod
    def read(cls, file: Path) -> dict[str, Any]:
        """Read the options in a TOML file.

        Raises:
            UsageError: the file is missing or not TOML.
        """
        if not file.is_file():
            hint = f"is a folder; give {file}/run.toml" if file.is_dir() else "no such file"
            raise UsageError(f"{file}: {hint}; check --config")
        try:
            return tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{file}: cannot be read as a configuration: {error}") from None

    def write(self) -> str:
        """Return the TOML text that reads back to this configuration."""
        options = self.model_dump(mode="json", exclude_none=True)
        if self.steps is not None:
            del options["epochs"]
        return tomli_w.dumps(options)

    def resolve(self) -> tuple[RunConfig, RunSpecs]:
        """Turn texts into specs, check that they go together, and fill in what the dataset suggests.

        Raises:
            UsageError: an unknown name, a wrong option, a task given twice, a need that is not met.
        """
        found = registry()
        specs = RunSpecs(
            dataset=_absolute(found.dataset(self.data)),
            backbone=found.resolve(BackboneSpec, self.backbone),
            tasks=tuple(found.resolve(TaskSpec, task) for task in self.tasks),
            balancer=found.resolve(BalancerSpec, self.balancer),
        )
        if not specs.tasks:
            raise UsageError("no pretext task is given; add at least one --task")
        twice = sorted({str(t) for t in specs.tasks if specs.tasks.count(t) > 1})
        if twice:
            raise UsageError(f"task {twice[0]!r} is given twice; give it once, with a weight=… if it should count more")
        check_needs(specs.backbone, specs.tasks)
        given = self.model_fields_set | ({"epochs"} if self.steps is not None else set())
        suggested = {k: v for k, v in specs.dataset.suggested().items() if k not in given}
        chosen = {
            "data": specs.dataset,
            "backbone": specs.backbone,
            "tasks": specs.tasks,
            "balancer": specs.balancer,
            **suggested,
        }
        return self.model_copy(update=chosen), specs

    def differences(self, other: RunConfig) -> list[str]:
        """Name the options that differ from `other` and change the numbers of a step."""
        ours, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        changed = [k for k in ours if k not in RESUMABLE and ours[k] != theirs[k]]
        return [f"{k} is {ours[k]!r}, was {theirs[k]!r}" for k in changed]


def _absolute(dataset: DatasetSpec) -> DatasetSpec:
    """Make paths absolute, so that run.toml repeats the run from any folder."""
    for name, value in dataset:
        if isinstance(value, Path):
            try:
                str(value).encode()
            except UnicodeEncodeError:
                raise UsageError(
                    f"{printable(value)}: the path is not UTF-8 and cannot be written down; rename it"
                ) from None
            dataset = dataset.model_copy(update={name: value.expanduser().absolute()})
    return dataset


class RunSpecs(BaseModel):
    """The specs of a run, resolved."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    dataset: SerializeAsAny[DatasetSpec]
    backbone: SerializeAsAny[BackboneSpec]
    tasks: tuple[SerializeAsAny[TaskSpec], ...]
    balancer: SerializeAsAny[BalancerSpec]
