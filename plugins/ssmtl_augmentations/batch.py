"""Augmentations by which slices of a batch share parts."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtl_toolkit.engine.augmentation import Augmentation, uniform


class Pasted(Augmentation):
    """A box of the partner, with its labels: of random size, shape and place."""

    def __init__(self, share: float) -> None:
        self.share = share

    def batch(self, image: Tensor, target: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        inside = boxes(len(image), image.shape[-2:], self.share).to(image.device)
        mixed = torch.where(inside[:, None], image[partner], image)
        within = inside if target.dim() == 3 else inside[:, None]
        return mixed, torch.where(within, target[partner], target)


def boxes(number: int, shape: tuple[int, ...] | torch.Size, share: float) -> Tensor:
    """Draw boxes inside images (H, W): masks (number, H, W). Areas are even up to `share`, sides up to 1 : 2."""
    height, width = shape
    cpu = torch.device("cpu")
    area, ratio = uniform(number, 0, share, cpu), uniform(number, -0.35, 0.35, cpu).exp()
    spans = []
    for length, side in ((height, (area * ratio).sqrt()), (width, (area / ratio).sqrt())):
        wide = (side.clamp(max=1) * length)[:, None]
        start = torch.rand(number)[:, None] * (length - wide)
        at = torch.arange(length) + 0.5
        spans.append((at >= start) & (at < start + wide))
    return spans[0][:, :, None] & spans[1][:, None, :]
