"""The layer on top of the backbone, and its loss."""

from __future__ import annotations

import torch
from ssmtl_toolkit.engine.backbone import Features
from ssmtl_toolkit.engine.head import IGNORE, Head
from torch import Tensor, nn
from torch.nn import functional as F


class FocalHead(Head):
    """A 1x1 convolution to one map per class, and the mean of -(1 - p)^gamma log p over the labelled pixels.

    p is the probability that the network assigns to the pixel's true class.
    """

    def __init__(self, dense_channels: int, classes: int, gamma: float) -> None:
        super().__init__()
        self.classify = nn.Conv2d(dense_channels, classes, kernel_size=1)
        self.gamma = gamma

    def forward(self, features: Features) -> Tensor:
        maps: Tensor = self.classify(features.dense)
        return maps

    def loss(self, maps: Tensor, target: Tensor) -> Tensor:
        # Pixels that nobody has labelled hold IGNORE, which is not a class: use any class there, and do not count it.
        labelled = target != IGNORE
        index = torch.where(labelled, target, 0)
        # In float32, even if the network runs in bfloat16; and 1 - p by expm1, which is exact if p is nearly 1.
        log_p = F.log_softmax(maps.float(), dim=1).gather(1, index[:, None])[:, 0]
        doubt = (-torch.expm1(log_p)).clamp(min=1e-6)  # at 0 the gradient of a power below 1 would be infinite
        focal = -(doubt**self.gamma) * log_p
        return (focal * labelled).sum() / labelled.sum().clamp(min=1)
