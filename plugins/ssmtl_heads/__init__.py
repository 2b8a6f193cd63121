"""Bundled heads: segmentation, and denoising (paper, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import HeadSpec, Output

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.backbone import Backbone
    from ssmtl_toolkit.engine.head import Head


class Segmentation(HeadSpec):
    """A class for each pixel: one 1x1 convolution on the dense map, cross-entropy, Dice loss or both.

    Classes that overlap have a sigmoid each, and binary cross-entropy.
    """

    name: ClassVar[str] = "segmentation"
    output: ClassVar[Output] = "labels"
    overlapping: ClassVar[bool] = True

    loss: Literal["ce", "dice", "ce+dice"] = Field("ce+dice", description="Loss to minimise (the paper: ce).")

    def build(self, backbone: Backbone, classes: int) -> Head:
        from ssmtl_heads.module import SegmentationHead

        return SegmentationHead(backbone.dense_channels, classes, self.loss)


class Denoising(HeadSpec):
    """The slice without the noise: one 1x1 convolution on the dense map, mean absolute error (paper, table 6)."""

    name: ClassVar[str] = "denoising"
    output: ClassVar[Output] = "image"

    sigma: float = Field(
        0.1, gt=0, description="Standard deviation of the added Gaussian noise; slices have unit variance."
    )

    def build(self, backbone: Backbone, classes: int) -> Head:
        from ssmtl_heads.module import DenoisingHead

        return DenoisingHead(backbone.dense_channels, backbone.in_channels, self.sigma)


@hookimpl
def ssmtl_heads() -> list[type[HeadSpec]]:
    return [Segmentation, Denoising]
