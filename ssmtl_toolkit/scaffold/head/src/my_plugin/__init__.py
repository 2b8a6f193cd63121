"""A head for ssmtl-toolkit: segmentation by the focal loss, for classes that fill few pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import Feature, HeadSpec, Output

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.backbone import Backbone

    from my_plugin.module import FocalHead


class MyPlugin(HeadSpec):
    """A class for each pixel, trained by the focal loss (Lin et al., 2017): easy pixels count little."""

    # What users type: --head my_plugin:gamma=3
    name: ClassVar[str] = "my_plugin"
    needs: ClassVar[frozenset[Feature]] = frozenset({"dense"})  # a backbone without these is refused before training
    output: ClassVar[Output] = "labels"  # so it learns from label maps, and is scored by IoU, Dice and HD95

    # Each field is an option.
    gamma: float = Field(2.0, ge=0, le=10, description="How little easy pixels count; 0: all alike (cross-entropy).")

    def build(self, backbone: Backbone, classes: int) -> FocalHead:
        # Imported here, not at the top: torch takes seconds to import, and `ssmtl --help` does not need it.
        from my_plugin.module import FocalHead

        return FocalHead(backbone.dense_channels, classes, self.gamma)


@hookimpl
def ssmtl_heads() -> list[type[HeadSpec]]:
    return [MyPlugin]
