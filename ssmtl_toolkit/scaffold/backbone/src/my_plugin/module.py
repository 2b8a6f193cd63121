"""Encoder and decoder: two modules, because a task may train the encoder alone."""

from __future__ import annotations

from collections.abc import Sequence

from ssmtl_toolkit.engine.backbone import Backbone
from torch import Tensor, nn
from torch.nn import functional as F


def block(inside: int, outside: int, stride: int) -> nn.Sequential:
    """Make a 3x3 convolution that divides height and width by `stride`, rounded up: any image size will do."""
    # Group norm, not batch norm: it is the same in training and test, and a batch may be a single slice.
    convolve = nn.Conv2d(inside, outside, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolve, nn.GroupNorm(1, outside), nn.ReLU(inplace=True))


class Encoder(nn.Module):
    """(N, C, H, W) -> maps of 1/2, 1/4 and 1/8 of the size: finest first, as tasks and decoders expect them."""

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        inputs = [in_channels, *widths[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(block(inside, width, stride=2), block(width, width, stride=1))
            for inside, width in zip(inputs, widths, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps


class Decoder(nn.Module):
    """Those maps -> (N, width, H/2, W/2); the toolkit brings it to the size of the image.

    To let tasks read coarser maps too, return a list of maps instead, finest first.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, widths[0], kernel_size=1) for width in widths)
        self.smooth = block(widths[0], widths[0], stride=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, dense = [layer(level) for layer, level in zip(self.lateral, maps, strict=True)]
        for level in reversed(finer):
            # To the size of the finer map, not times two: for odd sizes the two differ.
            dense = F.interpolate(dense, size=level.shape[2:], mode="nearest") + level
        smooth: Tensor = self.smooth(dense)
        return smooth


def build(in_channels: int, width: int) -> Backbone:
    """Make the network, and state how many channels its features have for tasks and heads."""
    widths = [width, 2 * width, 4 * width]
    encoder, decoder = Encoder(in_channels, widths), Decoder(widths)
    return Backbone(encoder, decoder, in_channels, pooled_channels=widths[-1], dense_channels=width)
