"""What the configurations of all commands share: validating, reading and writing options, and what a change means."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from ssmtl_toolkit.config.schedules import Constant, Schedule, read_schedule
from ssmtl_toolkit.config.toml import read_toml
from ssmtl_toolkit.data.slicing import Prepare
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.numerals import MOST, check_number
from ssmtl_toolkit.places import user_path
from ssmtl_toolkit.registry import registry, to_get
from ssmtl_toolkit.sources import Several, dataset_of
from ssmtl_toolkit.specs import AugmentationSpec, DatasetSpec, PreparationSpec, Spec
from ssmtl_toolkit.text import brief, did_you_mean, one_each, printable

_NEEDS = re.compile(r"# needs (\w+) (\w+) of (.+)")


_DATA = ("data", "unlabelled", "probe")  # options that are a dataset each
_LISTS = ("tasks", "augment", "prepare", "metrics", "track")  # options that are specs
_SPECS = ("backbone", "balancer", "head", "semi", *_DATA)  # options that are a spec each


class Role(Enum):
    """What changing an option means for work that has begun. It is marked beside the field.

    Resuming accepts any change but that of NUMBERS. An experiment treats two runs as one if NUMBERS and EXTENT agree.
    """

    NUMBERS = "other numbers from the first step: another run (the role of an option without a mark)"
    EXTENT = "how far it goes: its length, the scans and scores that count"
    REPETITIONS = "how many repetitions there are; each stays what it is"
    PLACE = "where files are; their contents are compared instead"
    MACHINE = "what it is computed on, and how fast; equal except for rounding"
    RECORD = "what is logged, kept, shown or checked on the way"


@dataclass(frozen=True)
class Alone:
    """The value that an option has when it is given on the command line without one. It is marked beside the field."""

    value: str


class Machine(BaseModel, defer_build=True):
    """What a command computes on."""

    precision: Literal["auto", "32", "bf16"] = Field(
        "auto", description="Precision of the computation; auto: bf16 on a GPU that supports it, 32 elsewhere."
    )
    accelerator: Annotated[str, Role.MACHINE] = Field("auto", description="auto, cpu, cuda or mps (Lightning Fabric).")


class Training(Machine):
    """What a training computes on."""

    channels_last: Annotated[Literal["auto", "on", "off"], Role.MACHINE] = Field(
        "auto", description="Memory layout of images; auto: on for GPUs, on CPUs by a trial at the start."
    )
    checkpoint_activations: Annotated[bool, Role.MACHINE] = Field(
        False, description="Save memory: compute the network's activations again in the backward pass."
    )


STRONG = ("affine", "scale", "elastic", "intensity", "contrast", "gamma", "noise", "blur", "low_resolution")
"""The augmentations of the default recipe and of pre-training by views; no flips, for most anatomy has sides."""


class Descent(BaseModel, defer_build=True):
    """How a network is trained: what its slices look like, and how its weights follow the gradient."""

    augment: tuple[SerializeAsAny[AugmentationSpec] | str, ...] = Field(
        (), description="Change slices in training, e.g. affine:rotate=10; repeatable; none: as they are."
    )
    optimizer: str = Field("adam", description="Optimizer by its name in timm, e.g. adamw, sgd, nadamw.")
    lr: float = Field(1e-3, gt=0, description="Learning rate; the largest of the schedule.")
    schedule: Annotated[Schedule, BeforeValidator(read_schedule), PlainSerializer(Spec.full)] = Field(
        Constant(), description="Course of the rate: constant, cosine:warmup=0.05, poly:power=0.9."
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay; for Adam it is L2.")
    clip: float | None = Field(None, gt=0, description="Clip the norm of the gradient to this.")
    on_nan: Annotated[str, Role.RECORD] = Field(
        "stop",
        pattern=r"^(stop|skip:[1-9][0-9]{0,5})$",
        description="A step whose loss or gradient is not finite: stop; skip:3: skip it, up to 3 in a row.",
    )

    @field_validator("augment", mode="before")
    @classmethod
    def _none_is_none(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str | Spec) else value
        if not isinstance(value, list | tuple):
            raise ValueError("expected a spec or a list of specs")
        return () if list(value) == ["none"] else value

    @field_serializer("augment")
    def _written(self, specs: tuple[AugmentationSpec | str, ...]) -> list[str]:
        return [spec if isinstance(spec, str) else spec.full() for spec in specs]

    def augmentations(self, default: tuple[str, ...] = ()) -> tuple[AugmentationSpec, ...]:
        """The augmentations as specs; `default` if none were named.

        Raises:
            UsageError: an unknown name, a wrong option, one given twice.
        """
        named = self.augment if "augment" in self.model_fields_set else default or self.augment
        specs = tuple(registry().resolve(AugmentationSpec, given) for given in named)
        twice = sorted({spec.name for spec in specs if [s.name for s in specs].count(spec.name) > 1})
        if twice:
            raise UsageError(f"augmentation {twice[0]!r} is given twice; give it once")
        return specs


class Config(BaseModel, defer_build=True):
    """Options of one command, validated; they are read from and written to TOML.

    Attributes:
        sections: headings of `--help`, each with the options below it; they are written to TOML in this order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _plain_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        return check_number(value, cls.model_fields[str(info.field_name)], MOST)

    @field_validator(*_SPECS, mode="before", check_fields=False)
    @classmethod
    def _spec_or_text(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name in _DATA:
            return _data(value)
        if not isinstance(value, str | Spec | None):
            raise ValueError("expected a spec or its text, such as 'name:option=value'")
        return value

    @field_validator(*_LISTS, mode="before", check_fields=False)
    @classmethod
    def _only_specs_or_texts(cls, value: Any) -> Any:
        for item in value if isinstance(value, list | tuple) else ():
            if not isinstance(item, str | Spec | type):
                raise ValueError("expected specs or their texts, such as 'name:option=value'")
        return value

    @field_serializer(*_SPECS, check_fields=False)
    def _text(self, spec: Spec | str | None) -> str | list[str] | None:
        if isinstance(spec, Several):
            return [source.full() for source in spec.of]
        return spec.full() if isinstance(spec, Spec) else spec

    @classmethod
    def of(cls, options: Mapping[str, Any], origin: str = "options") -> Self:
        """Validate options by name; `origin` says in errors where they come from.

        Raises:
            UsageError: with every wrong option at once.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            raise UsageError("\n".join(cls._explain(e, origin) for e in one_each(error.errors()))) from None
        except UnicodeEncodeError as error:  # pydantic fails to say what is wrong with such a text
            raise UsageError(f"{origin}: {error.object!r:.200} is no text in UTF-8") from None

    @classmethod
    def _explain(cls, error: Any, origin: str) -> str:
        name = str(error["loc"][0]) if error["loc"] else ""
        if error["type"] == "extra_forbidden":
            return f"{origin}: no option {name!r}{did_you_mean(name, cls.model_fields)}"
        return f"{origin}: {name}: {error['msg'].removeprefix('Value error, ')}, got {brief(error['input'])}"

    @classmethod
    def gives_way(cls, name: str, flags: Mapping[str, Any]) -> bool:
        """Whether a file's value for this option means the same as one of the `flags` under another name."""
        return False

    @classmethod
    def default_text(cls, name: str) -> str:
        """The default of an option as `--help` shows it; "": it has none, or its description states it."""
        field = cls.model_fields[name]
        default = field.default
        if default is None or default is False or field.is_required():
            return ""
        return " and ".join(default) if isinstance(default, tuple) else str(default)

    @classmethod
    def read(cls, file: Path) -> dict[str, Any]:
        """Read the options in a TOML file.

        Raises:
            UsageError: the file is missing or not TOML.
        """
        if not file.is_file():
            known = next(iter(sorted(file.glob("*.toml"))), "") if file.is_dir() else ""
            hint = f"is a folder; give a .toml file{known and f' in it, {known}'}" if file.is_dir() else "no such file"
            raise UsageError(f"{file}: {hint}; check --config")
        return read_toml(file, "a configuration")

    def write(self) -> str:
        """Return the TOML text that reads back to this configuration."""
        options = self.to_json()
        ordered = [name for names in self.sections.values() for name in names]
        return self._plugin_comments() + tomli_w.dumps({name: options[name] for name in ordered if name in options})

    def to_json(self) -> dict[str, Any]:
        """All options that have a value, with specs as their full texts."""
        return self.model_dump(mode="json", exclude_none=True)

    def _plugin_comments(self) -> str:
        """Comments that name the distributions of the specs that are not bundled, a line each."""
        lines = []
        for _, value in self:
            for spec in value if isinstance(value, tuple) else (value,):
                origin = registry().origin(spec) if isinstance(spec, Spec) else {"distribution": ""}
                if isinstance(spec, Spec) and origin["distribution"] not in ("", OURS):
                    lines.append(f"# needs {spec.kind} {spec.name} of {origin['distribution']} {origin['version']}\n")
        return "".join(lines)

    @classmethod
    def role(cls, name: str) -> Role:
        """What changing this option means."""
        marks = [mark for mark in cls.model_fields[name].metadata if isinstance(mark, Role)]
        return marks[0] if marks else Role.NUMBERS

    def of_roles(self, *roles: Role) -> dict[str, Any]:
        """The options of these roles, by name, with specs as their full texts."""
        options = self.model_dump(mode="json")
        return {name: value for name, value in options.items() if self.role(name) in roles}

    def resolve(self) -> Config:
        """Turn texts into specs and check that the options go together; a resolved configuration returns itself."""
        return self

    def differences(self, before: Config) -> list[str]:
        """Name the options that differ from those of an earlier start and would give other numbers."""
        with contextlib.suppress(UsageError):  # a spec that is not installed, from a notebook: its text is compared
            before = before.resolve()
        now, then = self.of_roles(Role.NUMBERS), before.of_roles(Role.NUMBERS)
        return [f"{k} is {now[k]!r}, was {then[k]!r}" for k in now if k in then and now[k] != then[k]]


def resolved_preparations(given: Prepare) -> tuple[PreparationSpec, ...]:
    """Preparations as specs, in order.

    Raises:
        UsageError: an unknown name, a wrong option, one given twice.
    """
    specs = tuple(registry().resolve(PreparationSpec, one) for one in given)
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        more = "; several windows are one option, with + between them" if twice[0] == "window" else ""
        raise UsageError(f"--prepare: {twice[0]!r} is given twice; give it once{more}")
    return specs


def _data(value: Any) -> Any:
    """Take a path for a text, and several sources as one dataset; what a text means is looked up later."""
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str | DatasetSpec | None):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"expected a path, a dataset or its text, such as 'phantom:patients=4', or a list of these, got "
            f"{type(value).__name__}; for arrays and datasets of volumes there is ssmtl_toolkit.from_arrays"
        )
    return dataset_of(value)


@contextlib.contextmanager
def explain_missing_plugin(file: Path | None) -> Iterator[None]:
    """If the configuration in `file` cannot be resolved because a plugin named in it is missing, say which.

    Raises:
        UsageError: as inside, or naming the distribution to install.
    """
    try:
        yield
    except UsageError:
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
        needed = (match.groups() for match in map(_NEEDS.fullmatch, lines) if match)
        missing: dict[str, list[str]] = {}
        for kind, name, distribution in needed:
            if not registry().has(kind, name):
                origin = distribution.strip()
                missing.setdefault(to_get(origin), []).append(f"the {kind} {name!r} of {origin}")
        if missing:
            lines = [f"{' and '.join(parts)}, {todo}" for todo, parts in missing.items()]
            raise UsageError(f"{file}: needs {'; '.join(lines)}") from None
        raise


def absolute(path: Path | None) -> Path | None:
    """Make a path absolute, so that a configuration means the same in any folder; an address hf://… stays."""
    return path if path is None or str(path).startswith("hf:/") else user_path(path).absolute()


def with_absolute_paths(dataset: DatasetSpec) -> DatasetSpec:
    """Make the dataset's paths absolute, so that run.toml repeats the run from any folder."""

    def change(path: Path) -> Path:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{printable(path)}: the path is not UTF-8 and cannot be written down; rename it"
            ) from None
        return user_path(path).absolute()

    return dataset.with_paths(change)
