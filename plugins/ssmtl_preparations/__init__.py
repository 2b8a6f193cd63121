"""Bundled preparations: intensity windows, percentiles, resampling, cropping, fitting into the size, context."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import PreparationSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.data.preparation import Stage
    from ssmtl_toolkit.data.volume import Stack

WINDOWS = {
    "lung": (-1350.0, 150.0),
    "mediastinum": (-125.0, 225.0),
    "bone": (-500.0, 1300.0),
    "brain": (0.0, 80.0),
    "liver": (-45.0, 105.0),
}
"""Usual windows of CT, lowest and highest HU: width 1500 about -600, 350 about 50, 1800 about 400, 80 about 40 and 150
about 30 (A. Murphy et al., "Windowing (CT)", Radiopaedia.org, doi 10.53347/rID-52108)."""

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})")
_BETWEEN = re.compile(r"\+(?![\d.])|(?<=[\d.])\+")  # a + that is no sign


class Window(PreparationSpec):
    """Clip intensities to a window of CT; several windows become channels."""

    name: ClassVar[str] = "window"
    positional: ClassVar[str | None] = "levels"

    levels: str = Field(
        examples=["-1000:400", "lung"],
        description=f"LOW:HIGH in HU or other units, or {', '.join(WINDOWS)}; + between several.",
    )

    @field_validator("levels")
    @classmethod
    def _windows(cls, levels: str) -> str:
        for part in _BETWEEN.split(levels):
            _window(part.strip())
        return levels

    @property
    def windows(self) -> tuple[tuple[float, float], ...]:
        """The lowest and highest value of each window."""
        return tuple(_window(part.strip()) for part in _BETWEEN.split(self.levels))

    def prepare(self, stack: Stack, size: int) -> Stage:
        """Return one channel for each window, or for each channel and window: those of the first channel first."""
        from ssmtl_preparations.values import windowed

        return windowed(stack, self.windows)


def _window(text: str) -> tuple[float, float]:
    """Read LOW:HIGH or a name.

    Raises:
        ValueError: it is neither.
    """
    if text in WINDOWS:
        return WINDOWS[text]
    match = _RANGE.fullmatch(text)
    if match is None:
        from ssmtl_toolkit.text import did_you_mean

        raise ValueError(
            f"should be LOW:HIGH, such as -1000:400, or one of {', '.join(WINDOWS)}, with + between several; "
            f"{text!r} is none{did_you_mean(text, WINDOWS)}"
        )
    low, high = float(match[1]), float(match[2])
    if low >= high:
        raise ValueError(f"LOW must be below HIGH in {text!r}")
    return low, high


class Percentile(PreparationSpec):
    """Clip intensities to percentiles of the scan, each channel to its own: for MR, whose units are arbitrary."""

    name: ClassVar[str] = "percentile"

    low: float = Field(0.5, ge=0, lt=100, description="Lower percentile of a channel's voxels.")
    high: float = Field(99.5, gt=0, le=100, description="Upper percentile of a channel's voxels.")

    @model_validator(mode="after")
    def _low_below_high(self) -> Percentile:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        return self

    def prepare(self, stack: Stack, size: int) -> Stage:
        """Return the clipped slices."""
        from ssmtl_preparations.values import clipped_to_percentiles

        return clipped_to_percentiles(stack, self.low, self.high)


class Resample(PreparationSpec):
    """Resample slices to a pixel spacing in mm, and, if asked, the stack to a distance between slices."""

    name: ClassVar[str] = "resample"

    spacing: float | None = Field(
        None, gt=0, le=100, examples=[1.25], description="Pixel spacing in mm, along rows and columns."
    )
    stack: float | None = Field(None, gt=0, le=100, description="Distance between slices in mm.")

    @model_validator(mode="after")
    def _something(self) -> Resample:
        if self.spacing is None and self.stack is None:
            raise ValueError("give spacing=MM for the pixels, stack=MM for the distance between slices, or both")
        return self

    def prepare(self, stack: Stack, size: int) -> Stage:
        """Return slices with this spacing about the middle of the scan, interpolated linearly."""
        from ssmtl_preparations.places import resampled

        return resampled(stack, self.stack, self.spacing)


class Crop(PreparationSpec):
    """Crop the slices of a scan to what is not background, all alike."""

    name: ClassVar[str] = "crop"
    positional: ClassVar[str | None] = "to"

    to: Literal["foreground"] = Field("foreground", description="foreground: brighter than Otsu's threshold.")
    margin: float = Field(5.0, ge=0, le=500, description="Distance kept around it, mm.")

    def prepare(self, stack: Stack, size: int) -> Stage:
        """Return slices cropped to one box; no slice is dropped."""
        from ssmtl_preparations.places import cropped

        return cropped(stack, self.margin)


class Fit(PreparationSpec):
    """Say how slices come to have the size of the network's input: squeezed, padded, cropped, in patches."""

    name: ClassVar[str] = "fit"
    positional: ClassVar[str | None] = "how"

    how: Literal["squeeze", "pad", "crop", "patch"] = Field(
        "pad",
        description="squeeze: whatever their aspect; pad: shrunk if too large, aspect kept, rest padded; crop: never "
        "resampled, but cropped where too large and padded where too small; patch: learn from random patches of large "
        "ones, predict by overlapping windows.",
    )

    @property
    def patches(self) -> bool:
        """Whether slices stay larger than the network's input."""
        return self.how == "patch"

    def prepare(self, stack: Stack, size: int) -> Stage:
        """Return slices of size x size pixels, or for patches of at least as many."""
        from ssmtl_preparations.places import fitted

        return fitted(stack, self.how, size)


class Context(PreparationSpec):
    """Show neighbouring slices as further channels of each slice (2.5-D)."""

    name: ClassVar[str] = "context"
    positional: ClassVar[str | None] = "slices"

    slices: int = Field(1, ge=1, le=10, description="Number of neighbours on either side; the end slices are repeated.")

    @property
    def reach(self) -> int:
        """How many neighbours on either side a slice shows."""
        return self.slices

    def prepare(self, stack: Stack, size: int) -> Stage:
        """Return the channels of the slices before, of the slice itself, and of those behind it."""
        from ssmtl_preparations.values import with_context

        return with_context(stack, self.slices)


@hookimpl
def ssmtl_preparations() -> list[type[PreparationSpec]]:
    """Register the bundled preparations."""
    return [Window, Percentile, Resample, Crop, Fit, Context]
