"""The auxiliary decoder g of eq. 1: one 1x1 convolution on the backbone's dense map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
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
        anchor = target.of(step.anchor).float()
        truth = target.image.float()
        loss = F.mse_loss(predicted, truth, reduction="sum") / max(truth.numel(), 1)
        return TaskOutput(loss, trivial_answers(anchor, truth), pairs=len(truth))


@torch.no_grad()
def trivial_answers(anchor: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return the mean squared errors on slices (M, C, H, W) of answers that need no learning, as means over channels.

    `copy` is the anchor itself, `blank` zero everywhere, `scaled_copy` a times the anchor with the best a for each
    channel of this batch: for slices of unit variance with correlation r these are 2 - 2r, 1 and 1 - r².
    """
    channels = [_of_channel(*pair) for pair in zip(anchor.unbind(dim=1), truth.unbind(dim=1), strict=True)]
    return {name: torch.stack([answers[name] for answers in channels]).mean() for name in channels[0]}


def _of_channel(anchor: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return the same for slices of one channel (M, H, W)."""
    number = max(truth.numel(), 1)
    energy, blank, product = (a.mul(b).sum() / number for a, b in ((anchor, anchor), (truth, truth), (anchor, truth)))
    scale = product / energy.clamp_min(torch.finfo(energy.dtype).tiny)  # for an anchor of zeros the product is 0 too
    copy = F.mse_loss(anchor, truth, reduction="sum") / number
    return {"copy": copy, "blank": blank, "scaled_copy": (blank - scale * product).clamp_min(0)}
