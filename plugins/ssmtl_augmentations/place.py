"""Augmentations that change where pixels come from: points (N, H, W, 2) in, points out."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmtl_toolkit.engine.augmentation import Augmentation, uniform


class Moved(Augmentation):
    """Rotation about the centre, shear and shift; on slices that are not square angles stay angles."""

    def __init__(self, rotate: float, shift: float, shear: float) -> None:
        self.rotate, self.shift, self.shear = math.radians(rotate), shift, shear

    def place(self, points: Tensor) -> Tensor:
        number, height, width, _ = points.shape
        angle, shear, right, down = (
            uniform(number, -most, most, points.device)
            for most in (self.rotate, self.shear, 2 * self.shift, 2 * self.shift)
        )
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        sheared = torch.eye(2, device=points.device).repeat(number, 1, 1)
        sheared[:, 0, 1] = shear
        pixels = points.new_tensor([width, height])
        matrix = (turned @ sheared) * pixels / pixels[:, None]
        return torch.einsum("nij,nhwj->nhwi", matrix, points) + torch.stack([right, down], 1)[:, None, None]


class Scaled(Augmentation):
    """Both axes by one factor, drawn evenly on a logarithmic scale; `stretch` drives them apart."""

    def __init__(self, by: float, stretch: float) -> None:
        self.by, self.stretch = math.log(by), math.log(stretch) / 2

    def place(self, points: Tensor) -> Tensor:
        both = uniform(len(points), -self.by, self.by, points.device)
        apart = uniform(len(points), -self.stretch, self.stretch, points.device)
        return points * torch.stack([both + apart, both - apart], 1).exp()[:, None, None]


class Bent(Augmentation):
    """Shifts of a coarse lattice, made smooth by cubic interpolation."""

    def __init__(self, shift: float, cells: int) -> None:
        self.shift, self.cells = shift, cells

    def place(self, points: Tensor) -> Tensor:
        number, height, width, _ = points.shape
        coarse = torch.randn(number, 2, self.cells, self.cells).to(points.device) * 2 * self.shift
        field = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        return points + field.permute(0, 2, 3, 1)


class Flipped(Augmentation):
    """Mirrored along one axis, or along each of the two with even chances, at least one."""

    def __init__(self, axes: str) -> None:
        self.axes = axes

    def place(self, points: Tensor) -> Tensor:
        signs = {"lr": [(-1.0, 1.0)], "ud": [(1.0, -1.0)], "both": [(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)]}[self.axes]
        drawn = torch.randint(len(signs), (len(points),))
        return points * torch.tensor(signs)[drawn].to(points.device)[:, None, None]
