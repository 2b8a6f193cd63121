"""VICReg: two views of a slice are to be alike, without negatives (Bardes, Ponce and LeCun, ICLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Feature, TaskSpec, Weight
from ssmtl_vicreg.sources import VICREG

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.backbone import Backbone
    from ssmtl_vicreg.module import VICReg as VICRegModule


class VICReg(TaskSpec):
    """Make two views of a slice alike, and features vary from slice to slice, without negatives."""

    name: ClassVar[str] = "vicreg"
    citations: ClassVar[tuple[str, ...]] = VICREG
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    metrics: ClassVar[tuple[str, ...]] = ("constant", "invariance", "variance", "covariance", "spread")
    baselines: ClassVar[tuple[str, ...]] = ("constant",)
    beaten_untrained: ClassVar[bool] = True  # two views of a slice look alike to any network
    views: ClassVar[bool] = True

    weight: Weight = Field(0.04, description="Weight of this loss in the total; 1/25 brings it to about 1; or auto.")
    invariance: float = Field(25.0, ge=0, description="Weight λ of the difference between the two views.")
    variance: float = Field(25.0, ge=0, description="Weight μ of features that vary too little.")
    covariance: float = Field(1.0, ge=0, description="Weight ν of features that vary together.")
    dim: int = Field(128, ge=2, le=65536, description="Length of the expanded features.")

    def collapsed(self, means: Mapping[str, float]) -> str:
        if means["spread"] >= 0.1 or means["loss"] < 0.98 * means["constant"]:
            return ""
        return "try a lower --lr, or a higher variance"

    def build(self, backbone: Backbone) -> VICRegModule:
        from ssmtl_vicreg.module import VICReg as VICRegModule

        return VICRegModule(backbone.pooled_channels, self)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [VICReg]
