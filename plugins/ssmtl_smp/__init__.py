"""Backbones from segmentation-models-pytorch: the U-Net, and any of its other architectures."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.places import registered_name
from ssmtl_toolkit.specs import BackboneSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.backbone import Backbone

Architecture = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
]


class _SmpSpec(BackboneSpec):
    encoder: str = Field("resnet34", description="An smp encoder (`resnet34`, `tu-` + any timm network …) or `plain`.")
    width: int = Field(
        64, ge=4, le=1024, description="Channels of encoder `plain` at its first level, doubled four times."
    )
    weights: str | None = Field(
        None,
        description="Pre-trained encoder weights by smp's name (`imagenet`), downloaded from the Hugging Face hub.",
    )

    @field_validator("encoder")
    @classmethod
    def _check_encoder(cls, value: str) -> str:
        return registered_name(value)

    @property
    @abstractmethod
    def architecture(self) -> str: ...

    def build(self, in_channels: int) -> Backbone:
        from ssmtl_smp.module import build

        return build(self.architecture, self.encoder, self.width, self.weights, in_channels)


class Unet(_SmpSpec):
    """U-Net (`smp.Unet`); with encoder `plain` the paper's standard one, double convolutions 64 to 1024 channels."""

    name: ClassVar[str] = "unet"

    @property
    def architecture(self) -> str:
        return "unet"


class Smp(_SmpSpec):
    """Any architecture of segmentation-models-pytorch except DPT, whose transformer needs a fixed image size."""

    name: ClassVar[str] = "smp"
    positional: ClassVar[str | None] = "arch"

    arch: Architecture = Field(description="Name of the architecture.")

    @property
    def architecture(self) -> str:
        return self.arch


@hookimpl
def ssmtl_backbones() -> list[type[BackboneSpec]]:
    return [Unet, Smp]
