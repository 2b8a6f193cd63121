"""What answers cost that need no learning, for tasks that give slices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def trivial_answers(given: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return the mean squared errors on slices (M, C, H, W) of answers that need no learning, as means over channels.

    `copy` is what the network is given, `blank` zero everywhere, `scaled_copy` a times what is given, with the best a
    for each channel of this batch: for slices of unit variance with correlation r these are 2 - 2r, 1 and 1 - r².
    """
    channels = [_of_channel(*pair) for pair in zip(given.unbind(dim=1), truth.unbind(dim=1), strict=True)]
    return {name: torch.stack([answers[name] for answers in channels]).mean() for name in channels[0]}


def _of_channel(given: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return the same for slices of one channel (M, H, W)."""
    number = max(truth.numel(), 1)
    energy, blank, product = (a.mul(b).sum() / number for a, b in ((given, given), (truth, truth), (given, truth)))
    scale = product / energy.clamp_min(torch.finfo(energy.dtype).tiny)  # for a slice of zeros the product is 0 too
    copy = F.mse_loss(given, truth, reduction="sum") / number
    return {"copy": copy, "blank": blank, "scaled_copy": (blank - scale * product).clamp_min(0)}
