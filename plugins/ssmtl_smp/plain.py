"""The paper's plain U-Net encoder in smp's own terms; it needs torch and smp alone, and goes along with exports."""

from __future__ import annotations

from itertools import pairwise

import torch
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import Tensor, nn

DECODER = (8, 4, 2, 1, 1)
"""Channels of smp's decoder for it, in widths."""


class PlainEncoder(nn.Module, EncoderMixin):
    """The contracting path of the standard U-Net: double 3x3 convolutions, max-pooling between them.

    Returns the image itself and `depth` maps at strides 1, 2, 4 …; smp's own encoders have strides 2, 4, 8 …. smp's
    decoder takes its sizes from the maps, so there is a skip at full resolution, as in the paper.
    """

    def __init__(self, out_channels: list[int], depth: int = 5, output_stride: int = 32) -> None:
        super().__init__()
        self._depth, self._output_stride = depth, output_stride
        self._out_channels, self._in_channels = list(out_channels), 3
        self._make_levels()

    def _make_levels(self) -> None:
        channels = [self._in_channels, *self._out_channels[1 : self._depth + 1]]
        self.levels = nn.ModuleList(
            nn.Sequential(
                Conv2dReLU(before, after, kernel_size=3, padding=1, use_norm="batchnorm"),
                Conv2dReLU(after, after, kernel_size=3, padding=1, use_norm="batchnorm"),
            )
            for before, after in pairwise(channels)
        )

    def set_in_channels(self, in_channels: int, pretrained: bool = False) -> None:
        """Change the number of input channels, with new weights."""
        self._in_channels = self._out_channels[0] = in_channels
        self._make_levels()

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for i, level in enumerate(self.levels):
            maps.append(level(torch.max_pool2d(maps[-1], 2) if i else image))
        return maps


def plain(width: int) -> str:
    """Register the plain encoder of `width` x (1, 2, 4, 8, 16) channels with smp and return its name there."""
    name = f"ssmtl-plain-{width}"
    channels = [3, *(width * 2**level for level in range(5))]
    encoders[name] = {
        "encoder": PlainEncoder,
        "pretrained_settings": {},
        "params": {"out_channels": channels},
    }
    return name
