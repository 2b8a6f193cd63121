"""How volumes are cut into slices and prepared: declared once, inherited by the configurations, carried by weights."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, field_serializer, field_validator

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.specs import PreparationSpec

Axis = Literal["axial", "coronal", "sagittal"]
"""An anatomical axis."""

Cut = Literal["axial", "coronal", "sagittal", "acquisition", "time"]
"""What a sequence of slices runs along: an anatomical axis, the one that the scanner stepped along, or time.

In time the frames at each position along the scanner's axis are a sequence."""


_WHOLE = re.compile(r"[0-9]{1,18}")


def _read_volume(value: Any) -> Any:
    number = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else value
    if number not in ("all", None) and (not isinstance(number, int) or isinstance(number, bool) or number < 0):
        raise ValueError("expected a number from 0 on, or all")
    return number


EmptyFrames = Literal["ignore", "background"]
"""What frames of 4-D label maps without any label are: not annotated, or background."""

WhichVolume = Annotated[Literal["all"] | int | None, BeforeValidator(_read_volume)]
"""Which volume of 4-D files is taken, counted from 0; all: each is a channel; None: 4-D files are refused."""

Level = tuple[float, float]
"""Mean and standard deviation of the values of a channel."""

Prepare = tuple[SerializeAsAny[PreparationSpec] | str, ...]
"""Preparations in order: specs; in options that are not resolved yet, also their texts."""

LARGEST = 4096  # pixels of a side; a model file may not ask for more memory than a network could use


_BY_VALUE = re.compile(r"^([a-z][a-z0-9_]*)=")  # `window=lung` is `window:lung`
_MEAN = r"-?[0-9]+(?:\.[0-9]+)?"
_SD = r"(?!0+(?:\.0*)?(?:/|\+|$))[0-9]+(?:\.[0-9]+)?"  # above 0
_LEVELS = re.compile(rf"{_MEAN}/{_SD}(?:\+{_MEAN}/{_SD})*")


class Slicing(BaseModel, defer_build=True):
    """How volumes become slices. Equal options and equal files give equal slices."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    axis: Cut = Field(
        "acquisition",
        description="Axis to cut slices along; acquisition: as scanned; time: frames of 4-D scans, at each position.",
    )
    size: int = Field(256, ge=8, le=LARGEST, description="Resize slices to size x size pixels.")
    volume: WhichVolume = Field(
        None, description="Volume to take of 4-D files, counted from 0; all: each is a channel."
    )
    window: tuple[float, float] | None = Field(
        None, description="Clip intensities to LOW HIGH first, e.g. -1000 1000 HU."
    )
    prepare: Prepare = Field(
        (), description="Prepare scans, in order, e.g. window=lung, resample:spacing=1.25, fit:pad; repeatable."
    )
    normalise: str = Field(
        "slice", description="Mean and deviation to normalise by: of the slice, scan or data, or MEAN/SD (channels: +)."
    )

    @field_validator("prepare", mode="before")
    @classmethod
    def _list_of_specs(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError("expected a list of specs")
        value = () if list(value) == ["none"] else value
        return tuple(_BY_VALUE.sub(r"\1:", item) if isinstance(item, str) else item for item in value)

    @field_serializer("prepare")
    def _as_texts(self, specs: Prepare) -> list[str]:
        return [spec if isinstance(spec, str) else spec.full() for spec in specs]

    @field_validator("normalise")
    @classmethod
    def _by_what(cls, normalise: str) -> str:
        if normalise not in ("slice", "scan", "data") and not _LEVELS.fullmatch(normalise):
            raise ValueError("expected slice, scan, data, or numbers such as 40/400, with + between channels")
        return normalise

    @property
    def levels(self) -> tuple[Level, ...] | None:
        """The mean and deviation of each channel, if `normalise` gives them."""
        if not _LEVELS.fullmatch(self.normalise):
            return None
        pairs = (part.split("/") for part in self.normalise.split("+"))
        return tuple((float(mean), float(deviation)) for mean, deviation in pairs)

    @field_validator("window")
    @classmethod
    def _low_below_high(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None and window[0] >= window[1]:
            raise ValueError("LOW must be below HIGH")
        return window

    @property
    def preparations(self) -> tuple[PreparationSpec, ...]:
        """What is done to a scan after it is cut, in order.

        Raises:
            TypeError: it is not resolved yet.
        """
        if texts := [item for item in self.prepare if isinstance(item, str)]:
            raise TypeError(f"the preparation {texts[0]!r} is a text; resolve the options first")
        return self.prepare  # type: ignore[return-value]

    @property
    def reach(self) -> int:
        """How many neighbours on either side each slice shows beside itself."""
        return sum(spec.reach for spec in self.preparations)

    @property
    def in_time(self) -> bool:
        """Whether the frames at each position of a 4-D scan are the sequences."""
        return self.axis == "time"

    @property
    def patches(self) -> bool:
        """Whether a network sees patches of slices, not whole ones."""
        return any(spec.patches for spec in self.preparations)

    @property
    def key(self) -> list[Any]:
        """What identifies slices made of one volume, as JSON: equal keys give equal slices."""
        after = [[spec.full(), spec.revision] for spec in self.preparations]
        return [self.model_dump_json(exclude={"prepare"}), *([after] if after else [])]

    @property
    def slicing(self) -> Slicing:
        """These options alone, of a configuration that inherits them."""
        return Slicing(**{name: getattr(self, name) for name in Slicing.model_fields})

    def over(self, base: Slicing) -> Slicing:
        """The options that were set here; for all others those of `base`."""
        chosen = {name: getattr(self, name) for name in Slicing.model_fields if name in self.model_fields_set}
        slicing = base.model_copy(update=chosen)
        slicing.check_frames()
        return slicing

    def check_frames(self) -> None:
        """Refuse to choose a volume where all of them are frames.

        Raises:
            UsageError: a volume is chosen.
        """
        if self.in_time and self.volume is not None:
            raise UsageError(
                f"--volume {self.volume}: with --axis time all volumes of a 4-D scan are read, as frames; omit one of "
                f"the two"
            )
