"""The reconstruction tasks of SSMTL: from the anchor, the slice t steps before or after it (paper, eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Distance, Feature, Fill, TaskSpec, slices_of

if TYPE_CHECKING:
    from ssmtl_reconstruct.module import Reconstruct
    from ssmtl_toolkit.engine.backbone import Backbone


class ReconstructSpec(TaskSpec):
    """What both directions have in common."""

    needs: ClassVar[frozenset[Feature]] = frozenset({"dense"})
    metrics: ClassVar[tuple[str, ...]] = ("copy", "blank", "scaled_copy")
    baselines: ClassVar[tuple[str, ...]] = metrics
    least_correlation: ClassVar[float | None] = 0.4  # copying costs 2 - 2r, a blank slice 1; with room for the estimate
    sign: ClassVar[int]

    t: Distance = Field(
        5, description="Distance of the slice to reconstruct, in slices (the paper: 5, 10, 15), mm (15mm), or auto."
    )
    mask: float = Field(
        0.0, ge=0, lt=1, description="Share of the anchor's patches that are covered (the paper: none)."
    )
    patch: float = Field(0.125, gt=0, le=0.5, description="Side of a patch, as a share of the slice's.")
    fill: Fill = Field("zero", description="What covered patches show: zero, noise, or each other's pixels.")

    def companions(self, spacing: float) -> Mapping[str, Sequence[int]]:
        t = slices_of(self.t, spacing)
        return {"target": (self.sign * t,) if t else ()}

    def build(self, backbone: Backbone) -> Reconstruct:
        from ssmtl_reconstruct.module import Reconstruct

        return Reconstruct(backbone.dense_channels, backbone.in_channels, self)


class ReconstructPrev(ReconstructSpec):
    """Reconstruct the slice t steps before the anchor."""

    name: ClassVar[str] = "reconstruct_prev"
    sign: ClassVar[int] = -1


class ReconstructNext(ReconstructSpec):
    """Reconstruct the slice t steps after the anchor."""

    name: ClassVar[str] = "reconstruct_next"
    sign: ClassVar[int] = 1


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [ReconstructPrev, ReconstructNext]
