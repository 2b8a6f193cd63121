"""A small encoder and decoder in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import BackboneSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.backbone import Backbone


class Tinynet(BackboneSpec):
    """A small U-Net of separable convolutions, for laptops."""

    name: ClassVar[str] = "tinynet"

    width: int = Field(16, ge=4, description="Channels at full size, doubled at each level.")
    levels: int = Field(4, ge=2, le=6, description="Sizes of maps, each half of the one before.")

    def build(self, in_channels: int) -> Backbone:
        from ssmtl_tinynet.module import TinyDecoder, TinyEncoder
        from ssmtl_toolkit.engine.backbone import Backbone

        channels = [self.width * 2**level for level in range(self.levels)]
        return Backbone(
            TinyEncoder(in_channels, channels),
            TinyDecoder(channels),
            in_channels=in_channels,
            pooled_channels=channels[-1],
            dense_channels=channels[0],
        )


@hookimpl
def ssmtl_backbones() -> list[type[BackboneSpec]]:
    return [Tinynet]
