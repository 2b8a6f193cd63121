"""Encoder and decoder of the small U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def separable(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Make a 3x3 convolution of each channel by itself, a 1x1 one that mixes them, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, before, kernel_size=3, stride=stride, padding=1, groups=before, bias=False),
        nn.Conv2d(before, after, kernel_size=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class TinyEncoder(nn.Module):
    """Images (N, in_channels, H, W) -> maps of `channels`, each half the size of the one before, finest first."""

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(in_channels, channels[0], kernel_size=3, padding=1), nn.ReLU(inplace=True))
        self.levels = nn.ModuleList([first, *(separable(a, b, stride=2) for a, b in pairwise(channels))])

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in self.levels:
            maps.append(level(maps[-1] if maps else image))
        return maps


class TinyDecoder(nn.Module):
    """Joins those maps from the deepest up, each with the next finer one -> the joined maps, finest first.

    The first is (N, channels[0], H, W). It may be returned alone, but then tasks cannot read the others.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.joins = nn.ModuleList(
            separable(fine + coarse, fine) for fine, coarse in reversed(list(pairwise(channels)))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        joined = maps[-1:]
        for join, fine in zip(self.joins, reversed(maps[:-1]), strict=True):
            larger = F.interpolate(joined[0], size=fine.shape[2:], mode="bilinear", align_corners=False)
            joined = [join(torch.cat([fine, larger], dim=1)), *joined]
        return joined[:-1]
