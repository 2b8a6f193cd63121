"""What is done to slices that are to be given back. Tasks that corrupt alike share one image, and one forward pass.

Draws come from torch's global generator of the CPU, as in augmentation; noise alone is drawn on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssmtl_toolkit.data.augment import gaussian_blur
from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.augmentation import boxes, uniform
from ssmtl_toolkit.engine.masking import Patches, taken
from ssmtl_toolkit.engine.step import Step

_KNOTS = 4  # of a curve of intensities, between its ends
_BLUR = (1 / 128, 1 / 32)  # standard deviation, as a share of a slice's side
_PATCH, _SHUFFLED = 1 / 16, 0.5  # side of a patch as a share of the slice's, and the share of patches
_NOISE = 0.5  # largest standard deviation
_BOX = 0.25  # largest area, as a share of the slice


class Noisy(NamedTuple):
    """Slices (N, C, H, W) with noise added, and that noise, at unit variance."""

    image: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Noise:
    """Adds Gaussian noise whose standard deviation is drawn evenly from `low` to `high` for each slice."""

    low: float
    high: float

    def of(self, step: Step) -> Noisy:
        """The anchors of a step: the same for all tasks of the step that add alike."""
        return step.common(self, lambda: self.add(step.anchor))

    def add(self, image: Tensor) -> Noisy:
        noise = torch.randn_like(image)
        sigma = uniform(len(image), self.low, self.high, image.device)
        return Noisy(image + sigma[:, None, None, None] * noise, noise)


@dataclass(frozen=True)
class Mix:
    """Applies each corruption, in this order, with its probability for each slice."""

    curve: float
    blur: float
    shuffle: float
    noise: float
    cutout: float

    def of(self, step: Step) -> Tensor:
        """The anchors of a step: the same for all tasks of the step that mix alike."""
        return step.common(self, lambda: self.corrupt(step.anchor))

    def corrupt(self, image: Tensor) -> Tensor:
        for change, probability in (
            (curved, self.curve),
            (blurred, self.blur),
            (shuffled, self.shuffle),
            (noisy, self.noise),
            (cut_out, self.cutout),
        ):
            chosen = sent(torch.nonzero(torch.rand(len(image)) < probability)[:, 0], image.device)
            if len(chosen):
                image = image.index_copy(0, chosen, change(image[chosen]))
        return image


def curved(image: Tensor) -> Tensor:
    """Intensities changed by a rising curve, a straight line between knots at random heights.

    It leaves the least and the greatest value of each channel of each slice where they are.
    """
    number, channels = image.shape[:2]
    inner = torch.rand(number, channels, _KNOTS).sort(dim=2).values
    ends = torch.zeros(number, channels, 1), torch.ones(number, channels, 1)
    heights = sent(torch.cat([ends[0], inner, ends[1]], 2), image.device)
    low, high = image.amin(dim=(2, 3), keepdim=True), image.amax(dim=(2, 3), keepdim=True)
    place = ((image - low) / (high - low).clamp_min(1e-6)).flatten(2) * (_KNOTS + 1)
    knot = place.floor().clamp(0, _KNOTS).long()
    below, above = heights.gather(2, knot), heights.gather(2, knot + 1)
    risen = (below + (place - knot) * (above - below)).view_as(image)
    return low + risen * (high - low)


def blurred(image: Tensor) -> Tensor:
    """A Gaussian, whose σ is drawn evenly."""
    least, most = (share * min(image.shape[2:]) for share in _BLUR)
    return gaussian_blur(image, (least, most), probability=1.0, reach=math.ceil(3 * most))


def shuffled(image: Tensor) -> Tensor:
    """Pixels of some small patches in random order, each within its patch; all channels alike."""
    patches = Patches(image, _PATCH)
    here = patches.of_pixel.flatten()
    order = sent(torch.rand(len(image), len(here)).argsort(dim=1), image.device)
    mixed = order.gather(1, here[order].argsort(dim=1, stable=True))  # patch by patch, in random order within each
    index = torch.empty_like(mixed).scatter(1, here.argsort(stable=True).expand_as(mixed), mixed)
    chosen = patches.pixels(patches.draw(_SHUFFLED))
    return torch.where(chosen, taken(image, index.view(len(image), *image.shape[2:])), image)


def noisy(image: Tensor) -> Tensor:
    """Gaussian noise added, whose σ is drawn evenly."""
    return Noise(0.0, _NOISE).add(image).image


def cut_out(image: Tensor) -> Tensor:
    """Zero within a box; all channels alike."""
    return image.masked_fill(sent(boxes(len(image), image.shape[2:], _BOX)[:, None], image.device), 0.0)
