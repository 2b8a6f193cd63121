"""The modules of the bundled heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from segmentation_models_pytorch.losses import DiceLoss, SoftCrossEntropyLoss
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.backbone import Features
from ssmtl_toolkit.engine.head import IGNORE, Head


class SegmentationHead(Head):
    """1x1 convolution to one map per class; pixels marked `IGNORE` do not count in the loss.

    The losses are those of one class for each pixel, or, where a target (N, classes, H, W) says that classes overlap,
    those of each class by itself.
    """

    def __init__(self, dense_channels: int, classes: int, loss: str) -> None:
        super().__init__()
        self.classify = nn.Conv2d(dense_channels, classes, kernel_size=1)
        wanted = loss.split("+")
        self._exclusive = [_LOSSES[name] for name in wanted]
        self._overlapping = [_OVERLAPPING[name] for name in wanted]

    def forward(self, features: Features) -> Tensor:
        maps: Tensor = self.classify(features.dense)
        return maps

    def loss(self, maps: Tensor, target: Tensor) -> Tensor:
        losses = self._overlapping if target.ndim == maps.ndim else self._exclusive
        return torch.stack([loss(maps.float(), target) for loss in losses]).sum()


def _cross_entropy(maps: Tensor, target: Tensor) -> Tensor:
    # smp's mean is over all pixels, even ignored ones: sum, and divide by the number of those that count
    loss: Tensor = SoftCrossEntropyLoss(reduction="sum", smooth_factor=0.0, ignore_index=IGNORE)(maps, target)
    return loss / (target != IGNORE).sum().clamp(min=1)


def _binary_cross_entropy(maps: Tensor, target: Tensor) -> Tensor:
    counted = target != IGNORE
    each = F.binary_cross_entropy_with_logits(maps, (target == 1).float(), reduction="none")
    return each.where(counted, 0.0).sum() / counted.sum().clamp(min=1)


_Loss = Callable[[Tensor, Tensor], Tensor]
_LOSSES: dict[str, _Loss] = {
    "ce": _cross_entropy,
    "dice": DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE),
}
_OVERLAPPING: dict[str, _Loss] = {
    "ce": _binary_cross_entropy,
    "dice": DiceLoss("multilabel", from_logits=True, ignore_index=IGNORE),
}


class DenoisingHead(Head):
    """1x1 convolution to a slice: from one with Gaussian noise of deviation `sigma` it predicts the clean one."""

    def __init__(self, dense_channels: int, image_channels: int, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.decode = nn.Conv2d(dense_channels, image_channels, kernel_size=1)

    def degrade(self, image: Tensor) -> Tensor:
        """Add the noise."""
        return image + self.sigma * torch.randn_like(image)

    def forward(self, features: Features) -> Tensor:
        slices: Tensor = self.decode(features.dense)
        return slices

    def loss(self, maps: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(maps.float(), target.float())
