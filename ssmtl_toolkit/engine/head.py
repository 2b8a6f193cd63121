"""What a `HeadSpec` builds: the downstream module on a backbone's features."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ssmtl_toolkit.data.classes import IGNORE as IGNORE
from ssmtl_toolkit.engine.backbone import Features


class Head(nn.Module):
    """From features to maps at image size, and the loss of these against a target.

    The trainer computes `loss(forward(backbone(degrade(image))), target)`. The target is the class index of each pixel,
    (N, H, W) int64 with `IGNORE` where there is none, or for heads with output `image` the slices themselves,
    (N, C, H, W). Where classes overlap, which only heads with `overlapping` are given, it says of each pixel and class
    whether it belongs to it, (N, classes, H, W) int64 of 0, 1 and `IGNORE`; a map is then the logit of that, and there
    is none for the background.
    """

    def degrade(self, image: Tensor) -> Tensor:
        """What the network is given in place of `image` (N, C, H, W) in training and test; here the image itself.

        Draws come from torch's global generator. For a prediction the scan is given as it is.
        """
        return image

    @abstractmethod
    def forward(self, features: Features) -> Tensor:
        """Return the maps (N, classes, H, W), before softmax (or sigmoid), or the slices (N, C, H, W)."""

    @abstractmethod
    def loss(self, maps: Tensor, target: Tensor) -> Tensor:
        """Return the scalar to descend."""
