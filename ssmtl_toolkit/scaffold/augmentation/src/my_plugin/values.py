"""How slices get other values."""

from __future__ import annotations

import math

import torch
from ssmtl_toolkit.engine.augmentation import Augmentation, uniform
from torch import Tensor


class SmoothField(Augmentation):
    """Multiplies what is brighter than the darkest pixel by exp(a x + b y + c xy); x and y are -1 and 1 at the edges.

    a, b and c are drawn evenly, for each slice, such that the field is nowhere above `by` or below its inverse.
    """

    def __init__(self, by: float) -> None:
        self.most = math.log(by) / 3

    def values(self, image: Tensor) -> Tensor:
        number, _, height, width = image.shape
        a, b, c = (
            # Drawn on the CPU, from torch's global generator: a resumed training repeats it, also on a GPU.
            uniform(number, -self.most, self.most, image.device)[:, None, None, None]
            for _ in range(3)
        )
        x = torch.linspace(-1, 1, width, device=image.device)
        y = torch.linspace(-1, 1, height, device=image.device)[:, None]
        # Slices come with mean 0 and variance 1, but a coil multiplies what is above the background.
        dark = image.amin(dim=(2, 3), keepdim=True)
        return dark + (image - dark) * torch.exp(a * x + b * y + c * x * y)
