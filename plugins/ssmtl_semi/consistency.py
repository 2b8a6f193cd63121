"""Consistency of views: what the averaged weights say of a slice is what the network learns to say of its changes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.augmentation import boxes
from ssmtl_toolkit.engine.head import IGNORE
from ssmtl_toolkit.engine.semi import PseudoLabels, Semi, SemiOutput, SemiStep


class MeanTeacher(Semi):
    """Squared difference of the probabilities, summed over classes, mean over all pixels, sure or not.

    The weight rises as exp(-5 (1 - t)^2) over the first `ramp` of the steps with unlabelled slices.
    """

    def __init__(self, weight: float, ramp: float) -> None:
        super().__init__()
        self.weight, self.ramp = weight, ramp

    def forward(self, step: SemiStep) -> SemiOutput:
        weak, strong = step.augmenter.weak_and_strong(step.batch.anchor)
        truth = step.teach(weak).float().softmax(dim=1)
        answer = step.head(step.backbone(strong)).float().softmax(dim=1)
        difference = (answer - truth).square().sum(dim=1).mean()
        risen = min(1.0, step.progress / self.ramp) if self.ramp else 1.0
        return SemiOutput(self.weight * math.exp(-5 * (1 - risen) ** 2) * difference, _pseudo(truth, threshold=0))


class UniMatch(Semi):
    """The head's own loss against pseudo labels, on three views of each slice.

    Two have other values and boxes of other slices (weight 1/4 each), in one the encoder's channels are dropped (1/2).
    Pixels that are not sure count nothing, and the whole counts by the share of those that are.
    """

    def __init__(self, weight: float, threshold: float, cutmix: float, dropout: float) -> None:
        super().__init__()
        self.weight, self.threshold, self.cutmix, self.dropout = weight, threshold, cutmix, dropout

    def forward(self, step: SemiStep) -> SemiOutput:
        weak, first = step.augmenter.weak_and_strong(step.batch.anchor)
        second = step.augmenter.other_values(weak)
        pseudo = _pseudo(step.teach(weak).float().softmax(dim=1), self.threshold)
        target = pseudo.labels.masked_fill(~pseudo.sure, IGNORE)
        features = step.backbone(weak).changed(lambda one: F.dropout2d(one, self.dropout))
        loss = 0.5 * step.loss(step.head(features), target)
        for view in (first, second):
            image, labels = self._mixed(view, target)
            loss = loss + 0.25 * step.loss(step.head(step.backbone(image)), labels)
        return SemiOutput(self.weight * loss * pseudo.sure.float().mean(), pseudo)

    def _mixed(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Put a box of another slice into each, with its pseudo labels."""
        if not self.cutmix:
            return image, target
        inside = sent(boxes(len(image), image.shape[-2:], self.cutmix), image.device)
        partner = sent(torch.randperm(len(image)), image.device)
        return torch.where(inside[:, None], image[partner], image), torch.where(inside, target[partner], target)


def _pseudo(probabilities: Tensor, threshold: float) -> PseudoLabels:
    """The most probable class of each pixel, and whether its probability reaches the threshold."""
    best, labels = probabilities.max(dim=1)
    return PseudoLabels(labels, best >= threshold)
