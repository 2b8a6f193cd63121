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
    """1x1 convolution to one map per class, background included; pixels marked `IGNORE` do not count in the loss."""

    def __init__(self, dense_channels: int, classes: int, loss: str) -> None:
        super().__init__()
        self.classify = nn.Conv2d(dense_channels, classes, kernel_size=1)
        self.losses: list[Callable[[Tensor, Tensor], Tensor]] = []
        if "ce" in loss.split("+"):
            # its mean is over all pixels, even ignored ones: sum, and divide by the number of those that count
            self.losses.append(SoftCrossEntropyLoss(reduction="sum", smooth_factor=0.0, ignore_index=IGNORE))
        if "dice" in loss.split("+"):
            self.losses.append(DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE))

    def forward(self, features: Features) -> Tensor:
        maps: Tensor = self.classify(features.dense)
        return maps

    def loss(self, maps: Tensor, target: Tensor) -> Tensor:
        counted = (target != IGNORE).sum().clamp(min=1)
        terms = [
            loss(maps.float(), target) / (counted if isinstance(loss, SoftCrossEntropyLoss) else 1)
            for loss in self.losses
        ]
        return torch.stack(terms).sum()


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
