"""The auxiliary decoder g of eq. 1: one 1x1 convolution on the backbone's dense map."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.step import Step, TaskOutput


class Reconstruct(nn.Module):
    """Mean squared error between g(fθ(anchor)) and the companion slice, over the pairs that exist."""

    def __init__(self, dense_channels: int, image_channels: int) -> None:
        super().__init__()
        self.decode = nn.Conv2d(dense_channels, image_channels, kernel_size=1)

    def forward(self, step: Step) -> TaskOutput:
        target = step.companion("target")
        predicted = target.of(self.decode(step.features().dense)).float()
        copied = target.of(step.anchor).float()
        truth = target.image.float()
        loss = F.mse_loss(predicted, truth, reduction="sum") / max(truth.numel(), 1)
        copy = F.mse_loss(copied, truth, reduction="sum") / max(truth.numel(), 1)
        return TaskOutput(loss, {"copy": copy}, pairs=len(truth))
