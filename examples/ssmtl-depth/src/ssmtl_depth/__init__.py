"""Predict how deep in its scan a slice lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import Feature, TaskSpec

if TYPE_CHECKING:
    from ssmtl_depth.module import Depth as DepthModule
    from ssmtl_toolkit.engine.backbone import Backbone


class Depth(TaskSpec):
    """Predict from pooled features how deep in its scan the anchor lies, from 0 to 1; trains the encoder only."""

    name: ClassVar[str] = "depth"
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    metrics: ClassVar[tuple[str, ...]] = ("constant",)
    baselines: ClassVar[tuple[str, ...]] = ("constant",)

    def build(self, backbone: Backbone) -> DepthModule:
        from ssmtl_depth.module import Depth as DepthModule

        return DepthModule(backbone.pooled_channels)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [Depth]
