"""Augmentations by which slices of a batch share parts."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.augmentation import Augmentation, boxes


class Pasted(Augmentation):
    """A box of the partner, with its labels: of random size, shape and place."""

    def __init__(self, share: float) -> None:
        self.share = share

    def batch(self, image: Tensor, target: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        inside = sent(boxes(len(image), image.shape[-2:], self.share), image.device)
        mixed = torch.where(inside[:, None], image[partner], image)
        within = inside if target.dim() == 3 else inside[:, None]
        return mixed, torch.where(within, target[partner], target)
