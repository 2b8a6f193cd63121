"""Coordinates of pixels, from the dense map of a piece of the anchor."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssmtl_locate import Locate as LocateSpec
from ssmtl_toolkit.engine.augmentation import identity, sampled, uniform
from ssmtl_toolkit.engine.step import Position, Step, TaskOutput

_SPREAD = 1 / 3  # variance of a coordinate that is spread evenly from -1 to 1


class Locate(nn.Module):
    """Mean squared error of three coordinates (x, y, z) of each pixel, as a share of their variance.

    x and y lie from -1 to 1 between the edges of the anchor, z from the first to the last slice of its stack. A piece
    is enlarged and turned, so that the place in the image does not tell the place in the body; what is outside of the
    anchor does not count. Trivial answers: `middle`, the mean of each coordinate in the batch, and `unmoved`, the
    place in the image, as if the piece were the whole slice.
    """

    def __init__(self, channels: int, spec: LocateSpec) -> None:
        super().__init__()
        self.spec = spec
        self.read = nn.Conv2d(channels, 3, kernel_size=1)

    def forward(self, step: Step) -> TaskOutput:
        here = identity(step.anchor)
        points = pieces(here, self.spec.part, math.radians(self.spec.rotate))
        told = self.read(step.encode(sampled(step.anchor, points)).dense).float()
        truth = coordinates(points, step.position)
        inside = (points.abs() <= 1).all(dim=-1)[:, None].float()
        blank = torch.zeros_like(truth)
        middle = (truth * inside).sum(dim=(0, 2, 3), keepdim=True) / inside.sum()
        unmoved = torch.cat([here.permute(0, 3, 1, 2), blank[:, 2:] + middle[:, 2:]], dim=1)
        errors = [((answer - truth).square() * inside).sum() for answer in (told, blank + middle, unmoved)]
        loss, *trivial = (error / (3 * inside.sum() * _SPREAD) for error in errors)
        off = ((told.detach() - truth).abs() * inside).sum(dim=(0, 2, 3)) / inside.sum() / 2  # shares of a side
        metrics = dict(zip(("middle", "unmoved"), trivial, strict=True))
        return TaskOutput(loss, {**metrics, "across": off[:2].mean(), "along": off[2]}, pairs=len(truth))


def pieces(points: Tensor, part: float, turn: float) -> Tensor:
    """Where the pixels of a random piece of each slice are taken from; `points` (N, H, W, 2) are the slice's own.

    Sides are drawn evenly from `part` to 1 of the slice's, middles anywhere so that the piece lies inside before it is
    turned about its middle by up to `turn` radians either way.
    """
    number, device = len(points), points.device
    side = uniform(number, part, 1.0, device)[:, None, None, None]
    middle = torch.stack([uniform(number, -1.0, 1.0, device) for _ in range(2)], dim=1)[:, None, None]
    angle = uniform(number, -turn, turn, device)[:, None, None, None]
    x, y = points[..., :1], points[..., 1:]
    turned = torch.cat([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=-1)
    return side * turned + (1 - side) * middle


def coordinates(points: Tensor, position: Position) -> Tensor:
    """Coordinates (N, 3, H, W) of pixels at `points` (N, H, W, 2) of slices at `position`."""
    along = 2 * (position.index + 0.5) / position.count - 1
    along = along.to(points.dtype)[:, None, None, None].expand(-1, 1, *points.shape[1:3])
    return torch.cat([points.permute(0, 3, 1, 2), along], dim=1)
