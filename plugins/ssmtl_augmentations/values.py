"""Augmentations that change values: slices (N, C, H, W) in, slices out.

Intensities are drawn for each channel, how sharp a slice is for all channels alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmtl_toolkit.data.augment import gaussian_blur
from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.augmentation import Augmentation, identity, sampled, uniform


def _for_each(image: Tensor, low: float, high: float) -> Tensor:
    """A draw for each channel of each slice, (N, C, 1, 1)."""
    number, channels = image.shape[:2]
    return uniform(number * channels, low, high, image.device).view(number, channels, 1, 1)


class Brightened(Augmentation):
    """a x + b."""

    def __init__(self, scale: float, shift: float) -> None:
        self.scale, self.shift = scale, shift

    def values(self, image: Tensor) -> Tensor:
        factor = _for_each(image, 1 - self.scale, 1 + self.scale)
        return image * factor + _for_each(image, -self.shift, self.shift)


class Contrasted(Augmentation):
    """mean + a (x - mean), clipped to the range of x; log a is drawn evenly."""

    def __init__(self, by: float) -> None:
        self.by = math.log(by)

    def values(self, image: Tensor) -> Tensor:
        mean = image.mean(dim=(2, 3), keepdim=True)
        spread = (image - mean) * _for_each(image, -self.by, self.by).exp() + mean
        return spread.clamp(image.amin(dim=(2, 3), keepdim=True), image.amax(dim=(2, 3), keepdim=True))


class Powered(Augmentation):
    """((x - low) / range)^g, with the mean and deviation of x; log g is drawn evenly. Inverted: of -x, and back."""

    def __init__(self, by: float, invert: float) -> None:
        self.by, self.invert = math.log(by), invert

    def values(self, image: Tensor) -> Tensor:
        sign = torch.where(_for_each(image, 0, 1) < self.invert, -1.0, 1.0)
        turned = image * sign
        low, high = turned.amin(dim=(2, 3), keepdim=True), turned.amax(dim=(2, 3), keepdim=True)
        share = (turned - low) / (high - low).clamp_min(1e-6)
        powered = share ** _for_each(image, -self.by, self.by).exp()
        mean, deviation = powered.mean(dim=(2, 3), keepdim=True), powered.std(dim=(2, 3), keepdim=True)
        normal = (powered - mean) / deviation.clamp_min(1e-6)
        return sign * normal * image.std(dim=(2, 3), keepdim=True) + image.mean(dim=(2, 3), keepdim=True)


class Noisy(Augmentation):
    """x + s n, s drawn evenly from 0 to `sigma`; the noise n is drawn on the device."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def values(self, image: Tensor) -> Tensor:
        return image + _for_each(image, 0, self.sigma) * torch.randn_like(image)


class Blurred(Augmentation):
    """A Gaussian whose σ is drawn evenly from a quarter of `sigma` to `sigma`."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def values(self, image: Tensor) -> Tensor:
        return gaussian_blur(image, (self.sigma / 4, self.sigma), probability=1.0, reach=math.ceil(3 * self.sigma))


class Coarse(Augmentation):
    """Larger pixels, by a factor drawn evenly from 1 to `by`."""

    def __init__(self, by: float) -> None:
        self.by = by

    def values(self, image: Tensor) -> Tensor:
        return coarsened(image, uniform(len(image), 1.0, self.by, image.device))


def coarsened(image: Tensor, factor: Tensor) -> Tensor:
    """Slices (N, C, H, W) in pixels that are larger by `factor` (N,), and back on their own grid.

    The values of the larger pixels are those at their centres, not means over them; between them it is bilinear.
    """
    size = sent(torch.tensor([image.shape[3], image.shape[2]], dtype=image.dtype), image.device)
    times = factor[:, None, None, None]
    corner = (identity(image) + 1) * size / 2  # distances from the corner in pixels: i + 1/2, also on the coarse grid
    centre = (corner * times).floor() + 0.5
    coarse = sampled(image, 2 * centre / size - 1)
    return sampled(coarse, 2 * corner / times / size - 1)
