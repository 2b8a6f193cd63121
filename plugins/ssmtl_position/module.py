"""The distance of two slices as the difference of their places, each read from the slice's own features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.step import Step, TaskOutput


class SlicePosition(nn.Module):
    """Smooth L1 between g(other) - g(anchor) and their distance d, mean over the pairs that exist:

        h((g(other) - g(anchor)) - d / u),  h(e) = e²/2 for |e| < 1, else |e| - 1/2

    g is a perceptron of two layers on pooled features, u the mean |d| of the pairs trained on so far: whatever the
    spacing, the trivial answer 0 costs about as much. True distances are differences of places too, so those of three
    slices add up, and two slices in the other order have the negative one.

    A score for each slice whose differences follow the distances: Yan, Lu and Summers, ISBI 2018, arXiv:1707.03891;
    telling the order of slices as a pretext task: Zhang, Wang and Zheng, ISBI 2017.
    """

    total: Tensor
    number: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.place = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, 1))
        self.register_buffer("total", torch.zeros(()))  # of the distances trained on, without their signs, in mm
        self.register_buffer("number", torch.zeros(()))  # of these distances

    def forward(self, step: Step) -> TaskOutput:
        other = step.companion("other")
        predicted = self._place(step.encode(other.image).pooled) - self._place(other.of(step.features().pooled))
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

    def _place(self, pooled: Tensor) -> Tensor:
        """Where slices lie on an axis along the body, (N,), in units; differences of bf16 numbers would be coarse."""
        with torch.autocast(pooled.device.type, enabled=False):
            place: Tensor = self.place(pooled.float())[:, 0]
        return place

    def _unit(self, mm: Tensor) -> Tensor:
        """The mean size of the distances trained on so far, in mm; before any, that of these."""
        size = mm.abs()
        if self.training:
            self.total += size.sum()
            self.number += len(size)
        return torch.where(self.number > 0, self.total / self.number.clamp_min(1), size.mean())
