"""The slice-pair similarity task of SSMTL+ (paper, section 3.2, eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ssmtl_slice_siam.sources import SIMSIAM
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Distance, Feature, TaskSpec, Weight, slices_of

if TYPE_CHECKING:
    from ssmtl_slice_siam.module import SliceSiam as SliceSiamModule
    from ssmtl_toolkit.engine.backbone import Backbone


class SliceSiam(TaskSpec):
    """Match the pooled features of the anchor and of a slice t+1 to 2t steps away; no negatives, no augmentation."""

    name: ClassVar[str] = "slice_siam"
    citations: ClassVar[tuple[str, ...]] = SIMSIAM
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    metrics: ClassVar[tuple[str, ...]] = ("random", "spread")
    baselines: ClassVar[tuple[str, ...]] = ("random",)
    floor: ClassVar[float] = -1.0

    weight: Weight = Field(1 / 3, description="Weight λ of this loss in the total (eq. 3), or auto.")
    t: Distance = Field(5, description="Pairs are t+1 to 2t slices apart, on either side; or t in mm (15mm), or auto.")
    norm: Literal["none", "batch"] = Field(
        "none",
        description="Normalisation between the predictor's two layers: none (the paper) or batch (SimSiam).",
    )

    def companions(self, spacing: float) -> Mapping[str, Sequence[int]]:
        t = slices_of(self.t, spacing)
        near, far = t + 1, 2 * t
        return {"positive": (*range(-far, -near + 1), *range(near, far + 1))}

    def collapsed(self, means: Mapping[str, float]) -> str:
        if means["spread"] >= 0.1 or means["random"] - means["loss"] >= 0.01:
            return ""
        return "try a lower --lr" + (", or norm=batch" if self.norm == "none" else "")

    def build(self, backbone: Backbone) -> SliceSiamModule:
        from ssmtl_slice_siam.module import SliceSiam as SliceSiamModule

        return SliceSiamModule(backbone.pooled_channels, self.norm)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [SliceSiam]
