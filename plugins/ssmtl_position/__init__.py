"""Where slices lie along the stack: the signed distance in mm between two slices of a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Distance, Feature, TaskSpec, slices_of

if TYPE_CHECKING:
    from ssmtl_position.module import SlicePosition as SlicePositionModule
    from ssmtl_toolkit.engine.backbone import Backbone


class SlicePosition(TaskSpec):
    """Tell how many mm another slice of the scan lies behind the anchor, or before it (negative)."""

    name: ClassVar[str] = "slice_position"
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    metrics: ClassVar[tuple[str, ...]] = ("zero", "mm", "zero_mm")
    baselines: ClassVar[tuple[str, ...]] = ("zero",)

    t: Distance = Field(5, description="The other slice lies 1 to t slices away, on either side; or t in mm, or auto.")

    def companions(self, spacing: float) -> Mapping[str, Sequence[int]]:
        t = slices_of(self.t, spacing)
        return {"other": (*range(-t, 0), *range(1, t + 1))}

    def build(self, backbone: Backbone) -> SlicePositionModule:
        from ssmtl_position.module import SlicePosition as SlicePositionModule

        return SlicePositionModule(backbone.pooled_channels)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [SlicePosition]
