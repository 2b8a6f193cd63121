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
    drawn = torch.empty(len(image)).uniform_(*sigma)
    chosen = (torch.rand(len(image)) < probability).nonzero()[:, 0]
    reach = min(reach, image.shape[2] - 1, image.shape[3] - 1)
    kernels = torch.exp(-0.5 * (torch.arange(reach + 1) / drawn[chosen, None]) ** 2)  # of one side, the middle first
    kernels = kernels / (2 * kernels.sum(dim=1, keepdim=True) - kernels[:, :1])
    both = sent(torch.cat([kernels, chosen[:, None]], dim=1), image.device)  # by one transfer
    kernels, rows = both[:, :-1, None, None, None].to(image.dtype), both[:, -1].long()
    blurred = image[rows]
    for side in (2, 3):
        blurred = _blurred(blurred, kernels, side)
    return image.index_copy(0, rows, blurred)


def _blurred(image: Tensor, kernels: Tensor, side: int) -> Tensor:
    """Weigh each pixel and its neighbours along a side, a distance after the other: faster than a convolution."""
    reach, length = kernels.shape[1] - 1, image.shape[side]
    padded = F.pad(image, (0, 0, reach, reach) if side == 2 else (reach, reach, 0, 0), "reflect")
    blurred = image * kernels[:, 0]
    for far in range(1, reach + 1):
        both = padded.narrow(side, reach - far, length) + padded.narrow(side, reach + far, length)
        blurred.addcmul_(both, kernels[:, far])
    return blurred
