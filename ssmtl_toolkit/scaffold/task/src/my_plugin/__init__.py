"""A pretext task for ssmtl-toolkit: on which side of the anchor does a slice lie?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import Distance, Feature, TaskSpec, slices_of

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.backbone import Backbone

    from my_plugin.module import RelativePosition


class MyPlugin(TaskSpec):
    """Tell from pooled features whether a slice t away from the anchor lies before or after it."""

    # What users type: --task my_plugin:t=5
    name: ClassVar[str] = "my_plugin"
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})  # a backbone without these is refused before training
    metrics: ClassVar[tuple[str, ...]] = ("chance", "accuracy")
    baselines: ClassVar[tuple[str, ...]] = ("chance",)  # of the metrics, what trivial answers cost: did it learn more?

    # Each field is an option. `weight`, which all tasks have, is inherited.
    t: Distance = Field(5, description="Distance of the two slices, in slices or in mm, as in 15mm.")

    def companions(self, spacing: float) -> Mapping[str, Sequence[int]]:
        # If there are several offsets, one is drawn for each anchor, among those that lie inside its scan.
        t = slices_of(self.t, spacing)
        return {"other": (-t, t) if t else ()}

    def build(self, backbone: Backbone) -> RelativePosition:
        # Imported here, not at the top: torch takes seconds to import, and `ssmtl --help` does not need it.
        from my_plugin.module import RelativePosition

        return RelativePosition(backbone.pooled_channels)


@hookimpl
def ssmtl_tasks() -> list[type[TaskSpec]]:
    return [MyPlugin]
