"""The contrastive loss over two views of every slice of a batch, with as many positives as there are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_contrast import Contrast as ContrastSpec
from ssmtl_toolkit.engine.step import Position, Step, TaskOutput


class Contrast(nn.Module):
    """NT-Xent with several positives (Chen et al. 2020; Khosla et al. 2020): mean over views i and their positives p of

        -log( exp(z_i z_p / T) / sum over a != i of exp(z_i z_a / T) )

    where z are projected features of unit length. Which are positives: `positives`. Ranks do not share negatives.
    """

    def __init__(self, channels: int, spec: ContrastSpec) -> None:
        super().__init__()
        self.spec = spec
        self.project = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, spec.dim)
        )

    def forward(self, step: Step) -> TaskOutput:
        features = torch.cat([step.features().pooled, step.encode(step.view()).pooled])
        projected = self.project(features).float()
        number = len(step.anchor)
        if number < 2:
            return TaskOutput.nothing(projected)
        same = same_place(step.position, self.spec).repeat(2, 2)
        with torch.autocast(projected.device.type, enabled=False):  # a product of float32 would become bf16
            unit = F.normalize(projected, dim=1)
            alike = unit @ unit.T / self.spec.temperature
        itself = torch.eye(2 * number, dtype=torch.bool, device=alike.device)
        positive = same & ~itself
        log_p = alike.masked_fill(itself, -torch.inf).log_softmax(dim=1).masked_fill(itself, 0.0)
        loss = -(log_p * positive).sum(dim=1).div(positive.sum(dim=1)).mean()
        nearest = alike.detach().masked_fill(itself, -torch.inf).argmax(dim=1)
        accuracy = positive.gather(1, nearest[:, None]).float().mean()
        chance = alike.new_full((), math.log(2 * number - 1))
        return TaskOutput(loss, {"chance": chance, "accuracy": accuracy}, pairs=2 * number)


def same_place(position: Position, spec: ContrastSpec) -> Tensor:
    """Which slices count as the same place, (N, N) bool, each with itself.

    A place is the middle of a slice as a share of its stack; stacks of different coverage are compared as they are. In
    mm, or in time in ms, it is counted from the middle of the stack.
    """
    share = (position.index + 0.5) / position.count
    if spec.positives == "views":
        return torch.eye(len(share), dtype=torch.bool, device=share.device)
    if spec.positives == "partition":
        part = (share * spec.parts).long()
        return part[:, None] == part
    if isinstance(spec.near, str):
        place = (share - 0.5) * position.count * position.spacing
        return (place[:, None] - place).abs() <= float(spec.near[:-2])
    return (share[:, None] - share).abs() <= spec.near
