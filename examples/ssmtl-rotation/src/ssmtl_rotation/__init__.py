"""Predict by how many quarter turns a slice was turned (Gidaris et al., 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import Feature, TaskSpec

if TYPE_CHECKING:
    from ssmtl_rotation.module import Rotation as RotationModule
    from ssmtl_toolkit.engine.backbone import Backbone


class Rotation(TaskSpec):
    """Predict from pooled features by how many quarter turns the anchor was turned; trains the encoder only."""

    name: ClassVar[str] = "rotation"
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    metrics: ClassVar[tuple[str, ...]] = ("chance", "accuracy")
    baselines: ClassVar[tuple[str, ...]] = ("chance",)

    def build(self, backbone: Backbone) -> RotationModule:
        from ssmtl_rotation.module import Rotation as RotationModule

        return RotationModule(backbone.pooled_channels)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [Rotation]
