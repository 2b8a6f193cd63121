"""Backbones from segmentation-models-pytorch: the U-Net, and any of its other architectures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.places import registered_name
from ssmtl_toolkit.specs import BackboneSpec, ExportSpec

if TYPE_CHECKING:
    from torch import Tensor

    from ssmtl_toolkit.engine.backbone import Backbone
    from ssmtl_toolkit.engine.export import Exported

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


class SmpExport(ExportSpec):
    """A folder for `smp.from_pretrained`: encoder, decoder and head of a backbone made by smp, the paper's included."""

    name: ClassVar[str] = "smp"

    def write(self, exported: Exported, folder: Path) -> str:
        from ssmtl_smp.export import write_model

        spec = exported.spec
        if not isinstance(spec, _SmpSpec):
            raise UsageError(
                f"export 'smp': backbone {spec.name!r} is not smp's; export to torch or onnx, its encoder to timm"
            )
        return write_model(exported, folder, spec.architecture, spec.encoder, spec.width)

    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        from ssmtl_smp.export import outputs

        return [outputs(exported, folder, images)]


@hookimpl
def ssmtl_exports() -> list[type[ExportSpec]]:
    return [SmpExport]


@hookimpl
def ssmtl_backbones() -> list[type[BackboneSpec]]:
    return [Unet, Smp]
