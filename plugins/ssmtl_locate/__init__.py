"""Where pixels lie: from a piece of a slice, tell for each pixel where it lies across the slice and along the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Feature, TaskSpec

if TYPE_CHECKING:
    from ssmtl_locate.module import Locate as LocateModule
    from ssmtl_toolkit.engine.backbone import Backbone


class Locate(TaskSpec):
    """Tell for each pixel of a turned and enlarged piece of the anchor where it lies, in the slice and in the stack."""

    name: ClassVar[str] = "locate"
    needs: ClassVar[frozenset[Feature]] = frozenset({"dense"})
    metrics: ClassVar[tuple[str, ...]] = ("middle", "unmoved", "across", "along")
    baselines: ClassVar[tuple[str, ...]] = ("middle", "unmoved")

    part: float = Field(0.5, gt=0, le=1, description="Smallest side of a piece, as a share of the slice's.")
    rotate: float = Field(20.0, ge=0, le=180, description="Largest turn, in degrees.")

    def build(self, backbone: Backbone) -> LocateModule:
        from ssmtl_locate.module import Locate as LocateModule

        return LocateModule(backbone.dense_channels, self)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [Locate]
