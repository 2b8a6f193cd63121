"""Augmentations that change where pixels come from: points (N, H, W, 2) in, points out.

Points are computed element by element: a matrix product would be rounded to bf16 or TF32 where these are allowed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.augmentation import Augmentation, uniform


class Moved(Augmentation):
    """Rotation about the centre, shear and shift, each drawn evenly."""

    def __init__(self, rotate: float, shift: float, shear: float) -> None:
        self.rotate, self.shift, self.shear = math.radians(rotate), shift, shear

    def place(self, points: Tensor) -> Tensor:
        angle, shear, right, down = (
            uniform(len(points), -most, most, points.device)
            for most in (self.rotate, self.shear, self.shift, self.shift)
        )
        return moved(points, angle, shear, torch.stack([right, down], 1))


def moved(points: Tensor, angle: Tensor, shear: Tensor, shift: Tensor) -> Tensor:
    """The points R S x + 2 `shift`: S takes pixels `shear` columns further per row, R turns by `angle`.

    Angles (N,) are radians, between pixels, whatever the sides of a slice; `shift` (N, 2) is a share of (W, H).
    """
    height, width = points.shape[1:3]
    cos, sin = angle.cos(), angle.sin()
    of_x = torch.stack([cos, sin * width / height], 1)
    of_y = torch.stack([(cos * shear - sin) * height / width, sin * shear + cos], 1)
    x, y = points[..., :1], points[..., 1:]
    return x * of_x[:, None, None] + y * of_y[:, None, None] + 2 * shift[:, None, None]


class Scaled(Augmentation):
    """Both axes by one factor, drawn evenly on a logarithmic scale; `stretch` drives them apart."""

    def __init__(self, by: float, stretch: float) -> None:
        self.by, self.stretch = math.log(by), math.log(stretch) / 2

    def place(self, points: Tensor) -> Tensor:
        both = uniform(len(points), -self.by, self.by, points.device)
        apart = uniform(len(points), -self.stretch, self.stretch, points.device)
        return points * torch.stack([both + apart, both - apart], 1).exp()[:, None, None]


class Bent(Augmentation):
    """Shifts drawn at the nodes of a lattice from corner to corner, with cubic interpolation between them."""

    def __init__(self, shift: float, cells: int) -> None:
        self.shift, self.cells = shift, cells

    def place(self, points: Tensor) -> Tensor:
        number, height, width, _ = points.shape
        coarse = sent(torch.randn(number, 2, self.cells, self.cells), points.device) * 2 * self.shift
        field = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        return points + field.permute(0, 2, 3, 1)


class Flipped(Augmentation):
    """Mirrored along one axis; or along one of the two, or both, with even chances."""

    def __init__(self, axes: str) -> None:
        self.axes = axes

    def place(self, points: Tensor) -> Tensor:
        signs = {"lr": [(-1.0, 1.0)], "ud": [(1.0, -1.0)], "both": [(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)]}[self.axes]
        drawn = torch.randint(len(signs), (len(points),))
        return points * sent(torch.tensor(signs)[drawn], points.device)[:, None, None]
