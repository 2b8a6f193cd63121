"""Tasks that give a slice back from a corrupted one: patches covered, noise added, or a mix of corruptions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from ssmtl_restore.sources import DENOISE, INPAINT, RESTORE
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.numerals import is_plain
from ssmtl_toolkit.specs import Feature, Fill, TaskSpec

if TYPE_CHECKING:
    from torch import nn

    from ssmtl_toolkit.engine.backbone import Backbone

_DENSE: frozenset[Feature] = frozenset({"dense"})


class Inpaint(TaskSpec):
    """Give back the covered patches of a slice, from those that are left."""

    name: ClassVar[str] = "inpaint"
    citations: ClassVar[tuple[str, ...]] = INPAINT
    needs: ClassVar[frozenset[Feature]] = _DENSE
    metrics: ClassVar[tuple[str, ...]] = ("blank", "mean")
    baselines: ClassVar[tuple[str, ...]] = metrics

    mask: float = Field(0.75, gt=0, lt=1, description="Share of the patches that are covered.")
    patch: float = Field(0.125, gt=0, le=0.5, description="Side of a patch, as a share of the slice's.")
    fill: Fill = Field("zero", description="What covered patches show: zero, noise, or each other's pixels.")

    def build(self, backbone: Backbone) -> nn.Module:
        from ssmtl_restore.module import Inpaint as InpaintModule

        return InpaintModule(backbone.dense_channels, backbone.in_channels, self)


def _sigma(value: Any) -> float | str:
    """Read `0.5`, or the range `0.1..1`."""
    low, dots, high = value.partition("..") if isinstance(value, str) else (value, "", "")
    try:
        numbers = [float(low), float(high)] if dots and is_plain(low) and is_plain(high) else [float(value)]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    good = 0 <= numbers[0] < numbers[1] < math.inf if dots else 0 < numbers[0] < math.inf
    if isinstance(value, bool) or not good:
        raise ValueError("should be a number above 0, such as 0.5, or a range, such as 0.1..1")
    return "..".join(repr(number).removesuffix(".0") for number in numbers) if dots else numbers[0]


_NUMBER = {"type": "number", "exclusiveMinimum": 0}
Sigma = Annotated[
    float | str, BeforeValidator(_sigma), WithJsonSchema({"anyOf": [_NUMBER, {"type": "string", "format": "range"}]})
]
"""Standard deviation of noise: a number, or a range from which it is drawn for each slice."""


class Denoise(TaskSpec):
    """Tell from a slice with Gaussian noise added what the noise is, or what the slice was."""

    name: ClassVar[str] = "denoise"
    citations: ClassVar[tuple[str, ...]] = DENOISE
    needs: ClassVar[frozenset[Feature]] = _DENSE
    metrics: ClassVar[tuple[str, ...]] = ("copy", "blank", "scaled_copy")
    baselines: ClassVar[tuple[str, ...]] = metrics

    sigma: Sigma = Field(
        0.5,
        description="Standard deviation of the noise, or a range to draw it from for each slice, as in 0.1..1; slices "
        "have unit variance.",
    )
    predict: Literal["noise", "image"] = Field(
        "noise", description="What to predict: the noise, at unit variance, or the slice without it."
    )

    def levels(self) -> tuple[float, float]:
        """The least and the greatest standard deviation."""
        low, _, high = str(self.sigma).partition("..")
        return float(low), float(high or low)

    def build(self, backbone: Backbone) -> nn.Module:
        from ssmtl_restore.module import Denoise as DenoiseModule

        return DenoiseModule(backbone.dense_channels, backbone.in_channels, self)


def _probability(of_what: str) -> Any:
    return Field(0.5, ge=0, le=1, description=f"Probability that {of_what}.")


class Restore(TaskSpec):
    """Give back a slice from one with other intensities, blurred, noisy, shuffled and cut out, each by chance."""

    name: ClassVar[str] = "restore"
    citations: ClassVar[tuple[str, ...]] = RESTORE
    needs: ClassVar[frozenset[Feature]] = _DENSE
    metrics: ClassVar[tuple[str, ...]] = ("copy", "blank", "scaled_copy")
    baselines: ClassVar[tuple[str, ...]] = metrics

    curve: float = _probability("intensities are changed by a rising curve")
    blur: float = _probability("a slice is blurred")
    shuffle: float = _probability("pixels change places within small patches")
    noise: float = _probability("Gaussian noise is added")
    cutout: float = _probability("a box is cut out")

    @model_validator(mode="after")
    def _corrupts(self) -> Self:
        if not any((self.curve, self.blur, self.shuffle, self.noise, self.cutout)):
            raise ValueError("curve, blur, shuffle, noise and cutout are all 0: nothing would be corrupted; raise one")
        return self

    def build(self, backbone: Backbone) -> nn.Module:
        from ssmtl_restore.module import Restore as RestoreModule

        return RestoreModule(backbone.dense_channels, backbone.in_channels, self)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [Inpaint, Denoise, Restore]
