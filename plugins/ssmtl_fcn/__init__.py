"""Fully convolutional networks: the features of any timm encoder, and a light decoder (Long et al., 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.places import registered_name
from ssmtl_toolkit.specs import BackboneSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.backbone import Backbone


class Fcn(BackboneSpec):
    """FCN with a timm encoder (the paper's ResNet-FCN with resnet50): most of its weights are in the encoder."""

    name: ClassVar[str] = "fcn"

    encoder: str = Field("resnet50", description="Any timm network with feature maps.")
    stride: int = Field(8, ge=2, le=32, description="Stride of the finest fused map: 8 as in FCN-8s, 16, 32 (none) …")
    channels: int = Field(64, ge=1, le=4096, description="Channels of the dense map.")
    weights: bool = Field(False, description="Start from timm's pre-trained weights, downloaded from the hub.")

    @field_validator("encoder")
    @classmethod
    def _check_encoder(cls, value: str) -> str:
        return registered_name(value)

    def build(self, in_channels: int) -> Backbone:
        from ssmtl_fcn.module import build

        return build(self.encoder, self.stride, self.channels, self.weights, in_channels)


@hookimpl
def ssmtl_backbones() -> list[type[BackboneSpec]]:
    return [Fcn]
