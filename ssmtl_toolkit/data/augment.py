"""Augmentation of slices, in batches on their device, with parameters drawn for each slice: its channels alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmtl_toolkit.data.sending import sent


def flip(image: Tensor, probability: float = 0.5) -> Tensor:
    """Mirror each slice (N, C, H, W) left to right with this probability."""
    chosen = sent(torch.rand(len(image)) < probability, image.device)
    return torch.where(chosen[:, None, None, None], image.flip(-1), image)


def gaussian_blur(
    image: Tensor, sigma: tuple[float, float] = (0.1, 2.0), probability: float = 0.5, reach: int = 6
) -> Tensor:
    """Blur each slice (N, C, H, W) with this probability, by its own σ drawn uniformly from `sigma`, in pixels.

    Separable, reflecting at the border; the kernel ends `reach` pixels out (3σ of the widest one).
    """
    number, channels, height, width = image.shape
    reach = min(reach, height - 1, width - 1)
    drawn = torch.empty(number).uniform_(*sigma)
    chosen = torch.rand(number) < probability
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / drawn[:, None]) ** 2)
    kernel = torch.where(chosen[:, None], kernel, (offsets == 0).float())
    kernel = sent(kernel / kernel.sum(dim=1, keepdim=True), image.device).to(image.dtype)
    kernel = kernel.repeat_interleave(channels, dim=0)
    rows = image.reshape(1, number * channels, height, width)
    rows = F.conv2d(F.pad(rows, (reach, reach, 0, 0), "reflect"), kernel[:, None, None, :], groups=len(kernel))
    rows = F.conv2d(F.pad(rows, (0, 0, reach, reach), "reflect"), kernel[:, None, :, None], groups=len(kernel))
    return rows.reshape(image.shape)
