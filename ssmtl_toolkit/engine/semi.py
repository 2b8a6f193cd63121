"""What a `SemiSpec` builds: what unlabelled slices add to the loss of a fine-tuning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.backbone import Features
from ssmtl_toolkit.engine.step import Batch, TaskOutput


@dataclass(frozen=True)
class SemiStep:
    """One step's unlabelled slices, and what can be computed of them.

    Draws from torch's global generator are reproducible: it is seeded anew for every step.

    Attributes:
        batch: the slices, `batch.anchor` (N, C, H, W), as they are, and the companions of the pretext tasks. Views that
            tasks ask for are changed by `augmenter`.
        augmenter: the augmentations of the training.
        progress: 0 in the first step that uses unlabelled slices, rising to 1 in the last one.
        backbone: images -> features, with gradient.
        head: features -> maps (N, classes, H, W), not yet normalised by softmax, with gradient.
        loss: maps and class indices (N, H, W), `IGNORE` where none -> the head's own loss.
        teach: images -> maps of the averaged weights in eval mode, without gradient.
        tasks: the outputs of the pretext tasks on the slices, by label.
    """

    batch: Batch
    augmenter: Augmenter
    progress: float
    backbone: Callable[[Tensor], Features]
    head: Callable[[Features], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    teach: Callable[[Tensor], Tensor]
    tasks: Callable[[], Mapping[str, TaskOutput]]


class PseudoLabels(NamedTuple):
    """Labels that a network has made: class indices (N, H, W), and which of them it is sure of, (N, H, W) bool."""

    labels: Tensor
    sure: Tensor


class SemiOutput(NamedTuple):
    """What a method gives back.

    Attributes:
        loss: scalar, added to that of the labelled slices.
        pseudo: the pseudo labels it learned from, if it has any: the run watches them.
    """

    loss: Tensor
    pseudo: PseudoLabels | None = None


class Semi(nn.Module):
    """What unlabelled slices add to the loss. Its parameters are trained, its state is saved."""

    @abstractmethod
    def forward(self, step: SemiStep) -> SemiOutput:
        """Compute the loss on unlabelled slices."""
