"""The contrastive loss over points of slices, in a map of the decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_contrast import DenseContrast as DenseContrastSpec
from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.backbone import Features, Level
from ssmtl_toolkit.engine.ranks import world
from ssmtl_toolkit.engine.step import Step, TaskOutput
from ssmtl_toolkit.errors import UsageError


class DenseContrast(nn.Module):
    """NT-Xent (Chen et al. 2020, eq. 1) of points: mean over points i in both views of

        -log( exp(z_i z_i' / T) / sum over a != i of exp(z_i z_a / T) )

    where i' is the point i in the other view, a all points of both views of all slices of the batch, and z features of
    the decoder's map there, projected, at unit length. The views, the anchor and another draw of its values, show each
    point in the same place. The local loss of GCL (Chaitanya et al. 2020, arXiv:2006.10511; there of regions, with
    negatives of the same slice alone), at the map that MACL found best. Ranks do not share negatives.
    """

    def __init__(self, levels: Sequence[Level], spec: DenseContrastSpec) -> None:
        super().__init__()
        if spec.level > len(levels):
            raise UsageError(
                f"dense_contrast: level={spec.level} of a decoder that gives {len(levels)} maps; "
                f"choose level=1 (the coarsest) to {len(levels)}"
            )
        self.spec = spec
        channels = levels[-spec.level].channels
        self.project = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, spec.dim)
        )

    def forward(self, step: Step) -> TaskOutput:
        views = [step.features(), step.encode(step.view(moved=False))]
        maps = [features.decoded[-self.spec.level].flatten(2).transpose(1, 2) for features in views]
        number, places, _ = maps[0].shape
        points = sent(drawn(number, places, self.spec.points), step.anchor.device)[:, :, None]
        chosen = torch.cat([one.gather(1, points.expand(-1, -1, one.shape[2])).flatten(0, 1) for one in maps])
        projected = self.project(chosen).float()
        half = len(projected) // 2
        with torch.autocast(projected.device.type, enabled=False):  # a product of float32 would become bf16
            unit = F.normalize(projected, dim=1)
            alike = unit @ unit.T / self.spec.temperature
        itself = torch.eye(2 * half, dtype=torch.bool, device=alike.device)
        alike = alike.masked_fill(itself, -torch.inf)
        same = torch.arange(2 * half, device=alike.device).roll(half)
        loss = F.cross_entropy(alike, same) + unread(views)
        accuracy = (alike.detach().argmax(dim=1) == same).float().mean()
        chance = alike.new_full((), math.log(2 * half - 1))
        return TaskOutput(loss, {"chance": chance, "accuracy": accuracy}, pairs=number)


def drawn(number: int, places: int, most: int) -> Tensor:
    """Draw up to `most` different points of so many places for each slice, (N, P); of no more places, all."""
    return torch.rand(number, places).argsort(dim=1)[:, :most]


def unread(views: Sequence[Features]) -> Tensor | float:
    """Zero, through the finest map in several processes: each weight of the decoder must get a gradient there."""
    return sum(features.decoded[0].sum() * 0 for features in views) if world() > 1 else 0.0
