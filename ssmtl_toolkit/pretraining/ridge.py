"""A linear classifier of pixels in closed form: ridge regression of one-hot targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_PENALTY = 1e-2  # on the squared weights of standardised features, beside a mean squared error


@dataclass(frozen=True)
class Ridge:
    """Scores of classes as linear functions of a pixel's features; the highest wins.

    Attributes:
        weight: (classes, d) float32.
        bias: (classes,) float32, -inf for a class that no pixel had: it is never predicted.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, classes: int) -> Ridge:
        """Fit features (n, d) of pixels with class indices `labels` (n,), background included in `classes`.

        Each feature is standardised; each class counts as much as any other, however few pixels it has. Minimised is
        the mean over the classes of the mean squared error of its pixels, plus the penalty: one target for each class,
        1 for its own pixels and 0 for all others.
        """
        target = F.one_hot(labels.long(), classes).double()
        number = target.sum(dim=0)
        present = number > 0
        weight = (target / number.clamp(min=1)).sum(dim=1) / present.sum()  # sums to 1
        rows = features.double()
        mean = weight @ rows
        centred = rows - mean
        spread = (weight @ centred.square()).sqrt()
        scale = torch.where(spread > 1e-6 * centred.abs().amax().clamp(min=1e-12), spread, torch.inf)  # constant: off
        standard = centred / scale
        middle = weight @ target
        gram = standard.T @ (weight[:, None] * standard) + _PENALTY * torch.eye(rows.shape[1]).to(rows)
        solved = torch.linalg.solve(gram, standard.T @ (weight[:, None] * (target - middle)))
        slope = (solved / scale[:, None]).T
        bias = torch.where(present, middle - slope @ mean, -torch.inf)
        return cls(slope.float(), bias.float())

    def scores(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Scores (N, classes, *size) of images whose features are `maps` (N, d_i, h_i, w_i), each brought to `size`.

        Bilinear interpolation is linear too, so the scores of each map are interpolated and not its many channels.
        """
        parts = self.weight.to(maps[0].device).split([one.shape[1] for one in maps], dim=1)
        each = (resized(F.conv2d(one.float(), w[..., None, None]), size) for one, w in zip(maps, parts, strict=True))
        return sum(each, self.bias.to(maps[0].device)[:, None, None])


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, h, w) brought to `size` by bilinear interpolation."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
