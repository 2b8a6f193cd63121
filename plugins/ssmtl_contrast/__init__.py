"""Contrast: views of a slice, slices from one place in the body, or one point in two views, are to be alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from ssmtl_contrast.sources import CONTRAST, GLOBAL_LOCAL
from ssmtl_toolkit.distance import length_of
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Feature, TaskSpec

if TYPE_CHECKING:
    from ssmtl_contrast.dense import DenseContrast as DenseContrastModule
    from ssmtl_contrast.module import Contrast as ContrastModule
    from ssmtl_toolkit.engine.backbone import Backbone

ALIKE = "its views are all but equal: omit --augment for the default, or give more of it"
_SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}


def _near(value: Any) -> float | str:
    """Read `0.1`, a share of the stack, or `10mm`."""
    if isinstance(value, str) and (length := length_of(value)) is not None:
        return length
    try:
        share = float(value)
    except (TypeError, ValueError, OverflowError):
        share = -1.0
    if isinstance(value, bool) or not 0 < share <= 1:
        raise ValueError(
            "should be a share of the stack above 0 and up to 1, such as 0.1, or millimetres, such as 10mm, in time "
            "milliseconds, such as 40ms"
        )
    return share


Near = Annotated[
    float | str,
    BeforeValidator(_near),
    WithJsonSchema({"anyOf": [_SHARE, {"type": "string", "format": "millimetres"}]}),
]
"""How near slices are: a share of the stack's length, or millimetres, in time milliseconds."""


class Contrast(TaskSpec):
    """Tell which slices of a batch come from the same place in the body, among views changed by --augment."""

    name: ClassVar[str] = "contrast"
    citations: ClassVar[tuple[str, ...]] = (*CONTRAST, *GLOBAL_LOCAL)
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    metrics: ClassVar[tuple[str, ...]] = ("chance", "accuracy")
    baselines: ClassVar[tuple[str, ...]] = ("chance",)
    beaten_untrained: ClassVar[bool] = True  # slices that are near each other look alike to any network
    views: ClassVar[bool] = True

    positives: Literal["position", "partition", "views"] = Field(
        "position",
        description="What is alike: slices near each other in their stacks (PCL), of the same part of them (GCL), or "
        "only two views of one slice (SimCLR).",
    )
    near: Near = Field(
        0.1, description="For position: how near, as a share of the stack, or in mm from its middle, as in 10mm."
    )
    parts: int = Field(4, ge=2, le=1000, description="For partition: into how many parts each stack is divided.")
    dim: int = Field(128, ge=1, le=65536, description="Length of the projected features.")
    temperature: float = Field(0.1, gt=0, description="Temperature of the loss.")

    def if_solved_at_once(self) -> str:
        return ALIKE

    def build(self, backbone: Backbone) -> ContrastModule:
        from ssmtl_contrast.module import Contrast as ContrastModule

        return ContrastModule(backbone.pooled_channels, self)


class DenseContrast(TaskSpec):
    """Tell which points of two views are the same point of the same slice, in a coarse map of the decoder."""

    name: ClassVar[str] = "dense_contrast"
    citations: ClassVar[tuple[str, ...]] = GLOBAL_LOCAL
    needs: ClassVar[frozenset[Feature]] = frozenset({"decoded"})
    metrics: ClassVar[tuple[str, ...]] = ("chance", "accuracy")
    baselines: ClassVar[tuple[str, ...]] = ("chance",)
    beaten_untrained: ClassVar[bool] = True  # a point looks much the same in two views to any network
    views: ClassVar[bool] = True

    level: int = Field(2, ge=1, le=16, description="Which map of the decoder, counted from the coarsest, 1; 2: MACL's.")
    points: int = Field(64, ge=1, le=65536, description="Most points that are drawn in a slice.")
    dim: int = Field(128, ge=1, le=65536, description="Length of the projected features.")
    temperature: float = Field(0.1, gt=0, description="Temperature of the loss.")

    def if_solved_at_once(self) -> str:
        return ALIKE

    def build(self, backbone: Backbone) -> DenseContrastModule:
        from ssmtl_contrast.dense import DenseContrast as DenseContrastModule

        return DenseContrastModule(backbone.levels.decoder, self)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [Contrast, DenseContrast]
