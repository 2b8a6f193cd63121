"""MoCo V2, the contrastive baseline (He et al., 2020; Chen et al., 2020), with augmentation for gray slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_moco.sources import MOCO
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Feature, TaskSpec

if TYPE_CHECKING:
    from ssmtl_moco.module import MocoV2 as MocoV2Module
    from ssmtl_toolkit.engine.backbone import Backbone


class MocoV2(TaskSpec):
    """Tell another augmented view of a slice from a queue of other slices; trains the encoder only."""

    name: ClassVar[str] = "moco_v2"
    citations: ClassVar[tuple[str, ...]] = MOCO
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    metrics: ClassVar[tuple[str, ...]] = ("chance", "accuracy")
    baselines: ClassVar[tuple[str, ...]] = ("chance",)
    beaten_untrained: ClassVar[bool] = True  # two views of a slice look alike to any network

    queue: int = Field(
        1024, ge=1, le=2**24, description="Length K of the queue of keys (the paper: 1024; MoCo: 65536)."
    )
    dim: int = Field(128, ge=1, le=65536, description="Length of the projected features.")
    temperature: float = Field(0.2, gt=0, description="Temperature T of the InfoNCE loss.")
    momentum: float = Field(0.999, ge=0, le=1, description="Momentum m of the key encoder.")
    bn_groups: int = Field(
        2,
        ge=1,
        le=1024,
        description="On one device: number of shuffled parts of the batch, each with its own batch-norm statistics.",
    )

    def remarks(self, anchors: int) -> Sequence[str]:
        if 2 * self.queue <= anchors:
            return ()
        return (
            f"{self}: its queue of {self.queue} keys is long for {anchors} slices: many negatives will be older views "
            f"of the anchor itself; queue={max(anchors // 2, 1)} or less avoids it",
        )

    def warm_up(self) -> int:
        return self.queue  # until then some negatives are random vectors, which are easily recognised

    def if_solved_at_once(self) -> str:
        if self.bn_groups == 1:
            return "a key may be known by the batch-norm statistics that it shares with its query: use bn_groups=2"
        return "its views are all but equal"

    def build(self, backbone: Backbone) -> MocoV2Module:
        from ssmtl_moco.module import MocoV2 as MocoV2Module

        return MocoV2Module(backbone, self)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [MocoV2]
