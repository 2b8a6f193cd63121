"""Slices with some of their patches covered. Tasks that cover alike share one covered image, and one forward pass.

Which patches are covered is drawn for each slice from torch's global generator of the CPU, as augmentations are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.step import Step
from ssmtl_toolkit.specs import Fill


class Masked(NamedTuple):
    """Slices with some of their patches covered.

    Attributes:
        image: (N, C, H, W), what the network sees.
        visible: (N, C, H, W), the slices, and zero where they are covered, whatever that is filled with.
        covered: (N, 1, H, W) bool.
    """

    image: Tensor
    visible: Tensor
    covered: Tensor


@dataclass(frozen=True)
class Masking:
    """Covers this share of the patches of each slice, of which each has this share of its sides.

    `fill` is what covered patches show: zero, the mean of normalised slices; Gaussian noise of unit variance; or each
    other's pixels.
    """

    share: float
    patch: float
    fill: Fill

    def of(self, step: Step) -> Masked:
        """The anchors of a step: the same for all tasks of the step that cover alike."""
        return step.common(self, lambda: self.cover(step.anchor))

    def cover(self, image: Tensor) -> Masked:
        """Cover slices (N, C, H, W), all channels in the same places; at least one patch, and never all of them."""
        patches = Patches(image, self.patch)
        drawn = patches.draw(self.share, at_least=2 if self.fill == "swap" else 1)
        covered = patches.pixels(drawn)
        visible = image.masked_fill(covered, 0.0)
        if self.fill == "noise":
            return Masked(torch.where(covered, torch.randn_like(image), image), visible, covered)
        if self.fill == "swap":
            return Masked(patches.swap(drawn), visible, covered)
        return Masked(visible, visible, covered)


class Patches:
    """Slices (N, C, H, W) divided into patches, each with this share of their sides; sizes differ by a pixel at most.

    Attributes:
        number: how many patches a slice has.
        of_pixel: (H, W) int64, the patch of each pixel, counted row by row.
    """

    def __init__(self, image: Tensor, patch: float) -> None:
        self._image = image
        height, width = image.shape[2:]
        along = max(2, round(1 / patch))
        self._rows, self._columns = min(along, height), min(along, width)
        row = torch.arange(height, device=image.device) * self._rows // height
        column = torch.arange(width, device=image.device) * self._columns // width
        self.number = self._rows * self._columns
        self.of_pixel = row[:, None] * self._columns + column

    def draw(self, share: float, at_least: int = 1) -> Tensor:
        """Draw this share of the patches of each slice, but not all of them: (N, K) int64, in random order."""
        chosen = min(max(round(share * self.number), at_least), self.number - 1)
        order = torch.rand(len(self._image), self.number).argsort(dim=1)
        return sent(order[:, :chosen], self._image.device)

    def pixels(self, drawn: Tensor) -> Tensor:
        """Tell the pixels of these patches of each slice (N, K): (N, 1, H, W) bool."""
        of_patch = torch.zeros(len(drawn), self.number, dtype=torch.bool, device=drawn.device)
        return of_patch.scatter(1, drawn, True)[:, self.of_pixel][:, None]

    def swap(self, drawn: Tensor) -> Tensor:
        """The slices, with each of these patches (N, K) showing the next one of them, and the last the first.

        A patch that is a pixel smaller than the other shows it cut off, one that is larger repeats its edge.
        """
        height, width = self._image.shape[2:]
        shown = torch.arange(self.number, device=drawn.device).expand(len(drawn), -1)
        shown = shown.scatter(1, drawn, drawn.roll(-1, dims=1))[:, self.of_pixel]
        row = _within(shown // self._columns, height, self._rows, dim=1)
        column = _within(shown % self._columns, width, self._columns, dim=2)
        return taken(self._image, row * width + column)


def taken(image: Tensor, pixels: Tensor) -> Tensor:
    """Slices (N, C, H, W) with each pixel showing another one of its slice: `pixels` (N, H, W), counted row by row."""
    index = pixels.flatten(1)[:, None].expand(-1, image.shape[1], -1)
    return image.flatten(2).gather(2, index).view_as(image)


def _within(part: Tensor, length: int, parts: int, dim: int) -> Tensor:
    """Where pixels lie along an axis (N, H, W) if each is shown its place in `part` instead of that in its own."""
    at = torch.arange(length, device=part.device)
    start = -(-torch.arange(parts + 1, device=part.device) * length // parts)  # of the parts, and where the last ends
    offset = (at - start[at * parts // length]).view([-1 if axis == dim else 1 for axis in range(3)])
    return torch.minimum(start[part] + offset, start[part + 1] - 1)
