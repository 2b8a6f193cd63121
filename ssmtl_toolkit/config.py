"""What pre-training and fine-tuning can be told, one validated object each: flags, TOML and Python share it."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_serializer,
    field_validator,
)

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import OURS, registry
from ssmtl_toolkit.specs import (
    BackboneSpec,
    BalancerSpec,
    DatasetSpec,
    HeadSpec,
    Spec,
    TaskSpec,
    check_needs,
)
from ssmtl_toolkit.text import did_you_mean, printable

_NEEDS = re.compile(r"# needs (\w+) (\w+) of (.+)")
RESUMABLE = frozenset({"epochs", "steps", "checkpoint_every", "log_every", "keep", "data", "store", "skip_bad", "head"})
RESUMABLE |= {"gradient_norms"}
RESUMABLE |= {"without", "snapshot_every", "accelerator", "devices", "nodes", "strategy", "compile", "channels_last"}
"""What may differ when a run goes on: how long, what is kept, where the scans lie (their contents are compared), and on
which machine (then not bit for bit)."""

RETUNABLE = frozenset({"seeds", "baseline", "surface", "tolerance", "accelerator", "skip_bad", "data", "log_every"})
"""The same for a fine-tuning."""


class Config(BaseModel):
    """What the options of all commands have in common: how they are checked, read and written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    @field_validator("data", "backbone", "balancer", "head", mode="before", check_fields=False)
    @classmethod
    def _spec_or_text(cls, given: Any) -> Any:
        if not isinstance(given, str | Spec | None):
            raise ValueError("expected a spec or its text, such as 'name:option=value'")
        return given

    @field_validator("window", check_fields=False)
    @classmethod
    def _low_below_high(cls, given: tuple[float, float] | None) -> tuple[float, float] | None:
        if given is not None and given[0] >= given[1]:
            raise ValueError("LOW must be below HIGH")
        return given

    @field_serializer("data", "backbone", "balancer", "head", check_fields=False)
    def _text(self, spec: Spec | str | None) -> str | None:
        return spec.full() if isinstance(spec, Spec) else spec

    @classmethod
    def of(cls, options: Mapping[str, Any], source: str = "options") -> Self:
        """Validate options by name.

        Raises:
            UsageError: with every wrong option at once.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            raise UsageError("\n".join(cls._explain(e, source) for e in error.errors())) from None

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
            hint = f"is a folder; give the .toml file in it ({file}/run.toml)" if file.is_dir() else "no such file"
            raise UsageError(f"{file}: {hint}; check --config")
        try:
            return tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{file}: cannot be read as a configuration: {error}") from None

    def write(self) -> str:
        """Return the TOML text that reads back to this configuration."""
        return self.needs() + tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def needs(self) -> str:
        """Comments that name the distributions of those parts that are not bundled, a line each."""
        lines = []
        for _, value in self:
            for spec in value if isinstance(value, tuple) else (value,):
                origin = registry().origin(spec) if isinstance(spec, Spec) else {"distribution": ""}
                if isinstance(spec, Spec) and origin["distribution"] not in ("", OURS):
                    lines.append(f"# needs {spec.kind} {spec.name} of {origin['distribution']} {origin['version']}\n")
        return "".join(lines)


@contextlib.contextmanager
def naming_what_is_missing(file: Path | None) -> Iterator[None]:
    """Where a configuration cannot be resolved for want of a plugin that its file names, say which.

    Raises:
        UsageError: as inside, or naming the distribution to install.
    """
    try:
        yield
    except UsageError:
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
        needed = (match.groups() for match in map(_NEEDS.fullmatch, lines) if match)
        missing = [f"the {kind} {name!r} of {came}" for kind, name, came in needed if not registry().has(kind, name)]
        if missing:
            raise UsageError(f"{file}: needs {' and '.join(missing)}, not installed here; install it by pip") from None
        raise


class RunConfig(Config):
    """Options of `ssmtl run`. Specs are given as text or as objects."""

    data: SerializeAsAny[DatasetSpec] | str = Field(
        "phantom", description="Folder or file of scans, or a dataset by name: phantom, mmwhs:DIR …"
    )
    backbone: SerializeAsAny[BackboneSpec] | str = Field("unet", description="The network, e.g. unet:encoder=resnet18.")
    tasks: tuple[SerializeAsAny[TaskSpec] | str, ...] = Field(
        ("reconstruct_prev", "reconstruct_next"),
        description="A pretext task, e.g. reconstruct_prev:t=2; repeat it.",
    )
    balancer: SerializeAsAny[BalancerSpec] | str = Field("fixed", description="How the losses become one.")
    head: SerializeAsAny[HeadSpec] | str | None = Field(
        None, description="Check before training that this head can use what is trained."
    )
    without: Path | None = Field(
        None, description="Leave out the test and validation patients of this file (from ssmtl data split)."
    )

    axis: Literal["axial", "coronal", "sagittal", "acquisition"] = Field(
        "acquisition", description="Which way slices are cut; acquisition: as scanned."
    )
    size: int = Field(256, ge=8, le=4096, description="Slices are resized to size x size pixels; phantom: 64.")
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
    snapshot_every: int | None = Field(
        None, ge=1, description="Keep the backbone as it is after every so many epochs, in snapshots/."
    )
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    gradient_norms: bool = Field(
        False, description="Log the norm of each task's gradient on the backbone too, at those steps."
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _specs_or_texts(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            raise ValueError("expected a list of specs")
        for item in given:
            cls._spec_or_text(item)
        return given

    @field_validator("without")
    @classmethod
    def _absolute_file(cls, given: Path | None) -> Path | None:
        return given and given.expanduser().absolute()

    @field_serializer("tasks")
    def _texts(self, specs: tuple[TaskSpec | str, ...]) -> list[str]:
        return [spec if isinstance(spec, str) else spec.full() for spec in specs]

    @classmethod
    def of(cls, options: Mapping[str, Any], source: str = "options") -> Self:
        """Validate options by name.

        Raises:
            UsageError: with every wrong option at once.
        """
        config = super().of(options, source)
        if config.steps is not None and "epochs" in options:
            raise UsageError(f"{source}: both epochs and steps are given; they say the same, give one")
        return config

    def write(self) -> str:
        """Return the TOML text that reads back to this configuration."""
        options = self.model_dump(mode="json", exclude_none=True)
        if self.steps is not None:
            del options["epochs"]
        return self.needs() + tomli_w.dumps(options)

    def resolve(self) -> tuple[RunConfig, RunSpecs]:
        """Turn texts into specs, check that they go together, and fill in what the dataset suggests.

        Raises:
            UsageError: an unknown name, a wrong option, a task given twice, a need that is not met.
        """
        found = registry()
        head = None if self.head is None else found.resolve(HeadSpec, self.head)
        specs = RunSpecs(
            dataset=with_absolute_paths(found.dataset(self.data)),
            backbone=found.resolve(BackboneSpec, self.backbone),
            tasks=tuple(found.resolve(TaskSpec, task) for task in self.tasks),
            balancer=found.resolve(BalancerSpec, self.balancer),
            head=head,
        )
        if not specs.tasks:
            raise UsageError("no pretext task is given; add at least one --task")
        twice = sorted({str(t) for t in specs.tasks if specs.tasks.count(t) > 1})
        if twice:
            raise UsageError(f"task {twice[0]!r} is given twice; give it once, with a weight=… if it should count more")
        if not any(task.weight for task in specs.tasks):
            raise UsageError("every task has weight 0: nothing would be trained; give one of them a weight above 0")
        check_needs(specs.backbone, [*specs.tasks, *([head] if head else [])])
        given = self.model_fields_set | ({"epochs"} if self.steps is not None else set())
        suggested = {k: v for k, v in specs.dataset.suggested().items() if k not in given}
        chosen = {
            "data": specs.dataset,
            "backbone": specs.backbone,
            "tasks": specs.tasks,
            "balancer": specs.balancer,
            "head": head,
            **suggested,
        }
        return self.model_copy(update=chosen), specs

    def fixed(self) -> dict[str, Any]:
        """The options that must stay while a run is resumed, by name, with specs as their full texts."""
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in RESUMABLE}

    def differences(self, written: Mapping[str, Any], source: str) -> list[str]:
        """Name the options that differ from those `written` in `source` and change the numbers of a step."""
        before = RunConfig.of(written, source)
        with contextlib.suppress(UsageError):  # a spec that is not installed, from a notebook: its text stands for it
            before, _ = before.resolve()
        return _differing(self.fixed(), before.fixed())


def _differing(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    return [f"{k} is {now[k]!r}, was {then[k]!r}" for k in now if k in then and now[k] != then[k]]


def with_absolute_paths(dataset: DatasetSpec) -> DatasetSpec:
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
    head: SerializeAsAny[HeadSpec] | None = None

    @property
    def trained(self) -> list[str]:
        """The parts of the backbone that the tasks train."""
        return ["encoder", "decoder"] if any("dense" in task.needs for task in self.tasks) else ["encoder"]


class FinetuneConfig(Config):
    """Options of `ssmtl finetune`. Specs are given as text or as objects."""

    data: SerializeAsAny[DatasetSpec] | str = Field(
        "phantom", description="Labelled scans: a folder, a manifest (.csv, .toml), or a dataset by name."
    )
    source: Path | None = Field(None, description="Run folder or backbone file of a pre-training; without: scratch.")
    backbone: SerializeAsAny[BackboneSpec] | str | None = Field(
        None, description="The network; by default the pre-training's, without one unet."
    )
    head: SerializeAsAny[HeadSpec] | str = Field("segmentation", description="The downstream task, e.g. denoising.")

    axis: Literal["axial", "coronal", "sagittal", "acquisition"] | None = Field(
        None, description="Which way slices are cut; by default as in the pre-training."
    )
    size: int | None = Field(
        None, ge=8, le=4096, description="Slices are resized to size x size; by default as in pre-training."
    )
    volume: int | None = Field(None, ge=0, description="Which volume to take of 4-D files, counted from 0.")
    window: tuple[float, float] | None = Field(None, description="Clip intensities to LOW HIGH; as in pre-training.")

    classes: str | None = Field(
        None, description="Label classes by name, e.g. LV=500,LA=420+421, or those known: LV,RV.  [default: all]"
    )
    ignore_value: int | None = Field(None, description="Label value that means: nobody has annotated this.")
    ignore_affine: bool = Field(False, description="Take labels voxel by voxel where their affine is another.")
    patient: str | None = Field(
        None, description="Regex on scan names; what its first group matches is the patient, e.g. '(.+)_E[DS]'."
    )
    split: Path | None = Field(None, description="Take patients (and slices) from this file (ssmtl data split).")
    train_scans: int | None = Field(None, ge=1, description="Draw so many labelled scans for training.  [default: all]")
    slices_per_scan: int | None = Field(None, ge=1, description="Draw so many slices of each.  [default: all]")
    slices: Literal["foreground", "any"] = Field(
        "foreground", description="Draw among slices that show a class, or among all annotated ones."
    )
    validation_scans: int = Field(0, ge=0, description="Labelled scans kept to stop early by; 0: a fixed length.")
    test_scans: int | None = Field(None, ge=1, description="Labelled scans kept for the test.  [default: a fifth]")

    steps: int = Field(500, ge=1, description="Weight updates; with validation scans the most there may be.")
    patience: int = Field(5, ge=1, description="Stop after so many checks on the validation scans without a gain.")
    check_every: int = Field(50, ge=1, description="Steps between two checks on the validation scans.")
    batch_size: int = Field(16, ge=1, description="Slices in a batch.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of Adam, fixed.")
    encoder_lr: float | None = Field(None, gt=0, description="Another one for the encoder.")
    decoder_lr: float | None = Field(None, gt=0, description="Another one for the decoder.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of Adam (L2).")
    clip: float | None = Field(None, gt=0, description="Clip the gradient's norm to this.")
    freeze: Literal["none", "encoder", "backbone"] = Field("none", description="What keeps its pre-trained weights.")
    min_transfer: float | None = Field(
        None, ge=0, le=1, description="Least share of the backbone's parameters to be loaded.  [default: the encoder]"
    )
    baseline: Literal["none", "scratch"] = Field("none", description="scratch: train the twin without pre-training.")
    seed: int = Field(0, ge=0, lt=2**62, description="Seed of everything random; repetitions count up from it.")
    seeds: int = Field(1, ge=1, description="Repetitions, each with other weights, scans and slices.")

    surface: bool | None = Field(None, description="Score HD95 and surface Dice too.  [default: where MONAI is there]")
    tolerance: float = Field(1.0, gt=0, description="Tolerance of the surface Dice, mm.")
    precision: Literal["auto", "32", "bf16"] = Field("auto", description="auto: bf16 on a GPU that has it.")
    accelerator: str = Field("auto", description="auto, cpu, cuda, mps (Lightning Fabric).")
    skip_bad: bool = Field(False, description="Go on without scans or labels that cannot be used.")
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")

    def fixed(self) -> dict[str, Any]:
        """The options that must stay while one repetition is resumed; where its files lie is not among them."""
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in RETUNABLE | {"source", "split"}}

    def differences(self, written: Mapping[str, Any], source: str) -> list[str]:
        """Name the options that differ from those `written` in `source` and change a repetition."""
        before = FinetuneConfig.of(written, source)
        with contextlib.suppress(UsageError):
            before = before.resolve()
        return _differing(self.fixed(), before.fixed())

    @field_validator("source", "split")
    @classmethod
    def _absolute_path(cls, given: Path | None) -> Path | None:
        return given and given.expanduser().absolute()

    def resolve(self) -> FinetuneConfig:
        """Turn texts into specs and check what can be checked without torch; `backbone` may stay None.

        Raises:
            UsageError: an unknown name, a wrong option, options that contradict each other.
        """
        found = registry()
        head = found.resolve(HeadSpec, self.head)
        backbone = None if self.backbone is None else found.resolve(BackboneSpec, self.backbone)
        if backbone:
            check_needs(backbone, [head])
        if self.source is None and self.baseline == "scratch":
            raise UsageError("--baseline scratch needs a pre-training to compare with; give it by --from")
        if self.source is None and self.freeze != "none":
            raise UsageError(f"--freeze {self.freeze}: without --from there are no pre-trained weights to keep")
        for part, frozen in (("encoder", {"encoder", "backbone"}), ("decoder", {"backbone"})):
            if self.freeze in frozen and getattr(self, f"{part}_lr") is not None:
                raise UsageError(f"--{part}-lr: the {part} does not learn under --freeze {self.freeze}; leave one out")
        for option in ("test_scans", "validation_scans"):
            if self.split is not None and getattr(self, option):
                flag = option.replace("_", "-")
                raise UsageError(f"--{flag}: the parts are those of {self.split}; leave out --split or --{flag}")
        if self.patient is not None:
            check_pattern(self.patient)
        if head.output == "image" and self.classes is not None:
            raise UsageError(f"head {head.name!r} uses no labels; leave out --classes")
        return self.model_copy(
            update={"head": head, "backbone": backbone, "data": with_absolute_paths(found.dataset(self.data))}
        )


def check_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the regex that finds the patient in a scan's name.

    Raises:
        UsageError: it is no regex.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--patient {pattern!r} is not a regular expression: {error}") from None
