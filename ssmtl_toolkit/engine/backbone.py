"""The network fθ: an encoder, a decoder, and features that are computed when somebody reads them."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.features import Feature


class Features:
    """What a backbone makes of images (N, C, H, W); each part is computed on first use and kept."""

    def __init__(self, backbone: Backbone, image: Tensor) -> None:
        self._backbone = backbone
        self._image = image

    @cached_property
    def pyramid(self) -> list[Tensor]:
        """The encoder's maps, finest first; the deepest is (N, pooled_channels, h, w).

        They are views, so that a gradient at one of them is that of its readers, not of what deeper maps make of it.
        """
        return [one.view_as(one) for one in self._backbone.encoder(self._image)]

    @cached_property
    def pooled(self) -> Tensor:
        """Global average of the deepest map: q(x) of the paper's eq. 2, (N, pooled_channels)."""
        return self.pyramid[-1].mean(dim=(2, 3))

    @cached_property
    def dense(self) -> Tensor:
        """The decoder's map at image size: fθ(x) of the paper's eq. 1, (N, dense_channels, H, W)."""
        dense: Tensor = self._backbone.decoder(self.pyramid)
        if dense.shape[2:] != self._image.shape[2:]:
            dense = F.interpolate(dense, size=self._image.shape[2:], mode="bilinear", align_corners=False)
        return dense

    def tensors(self, feature: Feature) -> list[Tensor]:
        """Read a feature by its name, as a list whether it is one tensor or several."""
        value: Tensor | list[Tensor] = getattr(self, feature)
        return [value] if isinstance(value, Tensor) else value

    def computed(self, feature: Feature) -> list[Tensor]:
        """The tensors of a feature that have a gradient (the image has none); none where nobody has read it."""
        return [one for one in self.tensors(feature) if one.requires_grad] if feature in vars(self) else []


class Backbone(nn.Module):
    """An encoder `image -> maps, finest first` and a decoder `maps -> dense map`, separate modules.

    Attributes:
        encoder: (N, in_channels, H, W) -> sequence of maps, the last one the deepest.
        decoder: that sequence -> (N, dense_channels, h, w), brought to (H, W) where it is smaller.
        in_channels: channels of the images.
        pooled_channels: channels of the deepest map.
        dense_channels: channels of the decoder's map.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        in_channels: int,
        pooled_channels: int,
        dense_channels: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.in_channels = in_channels
        self.pooled_channels = pooled_channels
        self.dense_channels = dense_channels

    def forward(self, image: Tensor) -> Features:
        return Features(self, image)
