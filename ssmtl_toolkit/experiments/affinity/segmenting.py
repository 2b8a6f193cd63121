"""The loss of a segmentation by frozen linear heads on the features of a backbone, for gradients and lookahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.pretraining.probe import Probe
from ssmtl_toolkit.pretraining.ridge import Ridge


class Segmentation:
    """The loss that ridge regression minimises, on the half of the labelled slices that it was not fitted on.

    It is the mean over classes (background included) of the mean squared error of their pixels, and over both halves.
    """

    def __init__(self, probe: Probe, fits: Sequence[Ridge]) -> None:
        """`fits`: what the probe has fitted on each half; they stay as they are."""
        self.probe = probe
        self._work = [
            (half, ridge, pixel_weights(half.labels, ridge) / len(fits))
            for half, ridge in zip(probe.labelled.halves, reversed(fits), strict=True)
        ]

    def losses(self) -> Iterator[Tensor]:
        """Yield the loss in parts, one for each batch of slices; it is their sum."""
        size = (self.probe.config.size, self.probe.config.size)
        for half, ridge, weights in self._work:
            for rows, maps in self.probe.maps(half):
                scores = ridge.scores(maps, size)
                labels, counts = half.labels[rows].to(scores.device), weights[rows].to(scores.device)
                yield weighted_error(scores, labels, counts, ridge.bias.isfinite())


def pixel_weights(labels: Tensor, ridge: Ridge) -> Tensor:
    """What each pixel of labels (n, H, W) counts, so that classes count equally; 0 for those the head does not know."""
    known = ridge.bias.isfinite().nonzero().flatten().tolist()
    weights = torch.zeros(labels.shape)
    present = [index for index in known if (labels == index).any()]
    for index in present:
        of_class = labels == index
        weights[of_class] = 1 / (float(of_class.sum()) * len(present))
    return weights


def weighted_error(scores: Tensor, labels: Tensor, weights: Tensor, known: Tensor) -> Tensor:
    """Squared errors of scores (N, classes, H, W) to one-hot labels (N, H, W), weighted by pixel, summed.

    That of a pixel is the mean over the classes that are `known`.
    """
    index = torch.where(labels == IGNORE, 0, labels).long()
    target = F.one_hot(index, scores.shape[1]).permute(0, 3, 1, 2).to(scores.dtype)
    errors = (scores[:, known] - target[:, known]).square().mean(dim=1)
    return (errors * weights).sum()
