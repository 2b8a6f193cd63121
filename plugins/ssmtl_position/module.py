"""The signed distance of two slices, from the pooled features of both."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.step import Step, TaskOutput


class SlicePosition(nn.Module):
    """Smooth L1 between predicted and true distance d of two slices a and b, mean over the pairs that exist:

        s(h(a, b) - h(b, a) - d / u),  s(e) = e²/2 for |e| < 1, else |e| - 1/2

    h is a perceptron of two layers on the pooled features of both, so that the distance changes its sign when they
    change places; u is the mean |d| of the pairs trained on so far: whatever the spacing, the answer 0 costs about as
    much. A difference g(b) - g(a) of places would be antisymmetric too, but has to know where in the body a slice lies
    before it can tell how far the other one is; on held-out scans it was less exact.

    Distances between slices, and their order, as what a network learns from: Yan, Lu and Summers, ISBI 2018,
    arXiv:1707.03891; Zhang, Wang and Zheng, ISBI 2017.
    """

    total: Tensor
    number: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.compare = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, 1, bias=False)
        )
        self.register_buffer("total", torch.zeros(()))  # of the distances trained on, without their signs, in mm
        self.register_buffer("number", torch.zeros(()))  # of these distances

    def forward(self, step: Step) -> TaskOutput:
        other = step.companion("other")
        predicted = self._distance(other.of(step.features().pooled), step.encode(other.image).pooled)
        if not len(predicted):
            return TaskOutput.nothing(predicted)
        mm = other.offsets * other.of(step.position.spacing)
        unit = self._unit(mm)
        truth = mm / unit
        metrics = {
            "zero": F.smooth_l1_loss(torch.zeros_like(truth), truth),
            "mm": (predicted.detach() * unit - mm).abs().mean(),
            "zero_mm": mm.abs().mean(),
        }
        return TaskOutput(F.smooth_l1_loss(predicted, truth), metrics, pairs=len(mm))

    def _distance(self, anchor: Tensor, other: Tensor) -> Tensor:
        """How far the one is behind the other, (N,), in units; differences of bf16 numbers would be coarse."""
        with torch.autocast(anchor.device.type, enabled=False):
            pairs = (torch.cat(pair, dim=1).float() for pair in ((anchor, other), (other, anchor)))
            there, back = (self.compare(pair)[:, 0] for pair in pairs)
        distance: Tensor = there - back
        return distance

    def _unit(self, mm: Tensor) -> Tensor:
        """The mean size of the distances trained on so far, in mm; before any, that of these."""
        size = mm.abs()
        if self.training:
            self.total += size.sum()
            self.number += len(size)
        return torch.where(self.number > 0, self.total / self.number.clamp_min(1), size.mean())
