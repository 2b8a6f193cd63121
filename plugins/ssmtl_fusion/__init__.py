"""Fusion of slices: a segmentation whose labels cost nothing, for they say how much of another slice was mixed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Feature, TaskSpec

if TYPE_CHECKING:
    from ssmtl_fusion.module import SliceFusion as SliceFusionModule
    from ssmtl_toolkit.engine.backbone import Backbone


class SliceFusion(TaskSpec):
    """Tell for each pixel how much of another slice was mixed into the anchor there, box by box."""

    name: ClassVar[str] = "slice_fusion"
    needs: ClassVar[frozenset[Feature]] = frozenset({"dense"})
    metrics: ClassVar[tuple[str, ...]] = ("chance", "accuracy")
    baselines: ClassVar[tuple[str, ...]] = ("chance",)

    levels: int = Field(5, ge=2, le=1000, description="Number of mixing levels from 0 to 1; 5: 0, 1/4, 1/2, 3/4 and 1.")
    boxes: int = Field(
        40, ge=1, le=10_000, description="Most boxes in a slice; as many as these or down to a quarter are drawn."
    )
    largest: float = Field(0.625, gt=0, le=1, description="Longest side of a box, as a share of the slice's.")

    def build(self, backbone: Backbone) -> SliceFusionModule:
        from ssmtl_fusion.module import SliceFusion as SliceFusionModule

        return SliceFusionModule(backbone.dense_channels, self)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [SliceFusion]
