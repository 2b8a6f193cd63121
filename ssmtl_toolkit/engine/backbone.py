"""The network fθ: an encoder, a decoder, and features that are computed when somebody reads them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.features import Feature
from ssmtl_toolkit.foreign import in_one_line

_TRIED = (64, 128, 256, 512, 224, 384)  # pixels of images by which levels are found; the last for transformers


class Features:
    """What a backbone makes of images (N, C, H, W); each is computed on first use and kept.

    Maps are views of those that the network continues with, so that a gradient at one of them is that of its readers,
    and not of what other maps are made of.
    """

    def __init__(self, backbone: Backbone, image: Tensor) -> None:
        self._backbone = backbone
        self._image = image

    @cached_property
    def pyramid(self) -> list[Tensor]:
        """The encoder's maps, finest first, `backbone.levels.encoder`; the deepest is (N, pooled_channels, h, w)."""
        return [one.view_as(one) for one in self._backbone.encoder(self._image)]

    @cached_property
    def pooled(self) -> Tensor:
        """Global average of the deepest map: q(x) of the paper's eq. 2, (N, pooled_channels)."""
        return self.pyramid[-1].mean(dim=(2, 3))

    @cached_property
    def decoded(self) -> list[Tensor]:
        """The decoder's maps, finest first, `backbone.levels.decoder`; the first is (N, dense_channels, h, w).

        All tasks and `dense` share one run of the decoder. Weights behind the maps that are read get no gradient: in
        several processes a task that does not read the first map needs --strategy ddp_find_unused_parameters_true, or
        a task beside it that reads dense features.
        """
        decoded: Tensor | Sequence[Tensor] = self._backbone.decoder(self.pyramid)
        return [one.view_as(one) for one in ([decoded] if isinstance(decoded, Tensor) else decoded)]

    @cached_property
    def dense(self) -> Tensor:
        """The decoder's first map at image size: fθ(x) of the paper's eq. 1, (N, dense_channels, H, W)."""
        dense = self.decoded[0]
        if dense.shape[2:] != self._image.shape[2:]:
            dense = F.interpolate(dense, size=self._image.shape[2:], mode="bilinear", align_corners=False)
        return dense

    def changed(self, change: Callable[[Tensor], Tensor]) -> Features:
        """The features of the same images with every map of the encoder changed; the encoder does not run again."""
        features = Features(self._backbone, self._image)
        features.pyramid = [change(one) for one in self.pyramid]
        return features

    def tensors(self, feature: Feature) -> list[Tensor]:
        """Read a feature by its name, as a list whether it is one tensor or several."""
        value: Tensor | list[Tensor] = getattr(self, feature)
        return [value] if isinstance(value, Tensor) else value

    def computed(self, feature: Feature) -> list[Tensor]:
        """The tensors of a feature that have a gradient (the image has none); none where nobody has read it."""
        return [one for one in self.tensors(feature) if one.requires_grad] if feature in vars(self) else []


@dataclass(frozen=True)
class Level:
    """A map of a backbone: how many channels it has, and how many pixels of the image lie between two of its own."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Levels:
    """The maps of a backbone, finest first: the encoder's as in `Features.pyramid`, the decoder's as in `decoded`."""

    encoder: tuple[Level, ...]
    decoder: tuple[Level, ...]


class Backbone(nn.Module):
    """An encoder `image -> maps, finest first` and a decoder `maps -> dense map`, separate modules.

    Attributes:
        encoder: (N, in_channels, H, W) -> sequence of maps, the last one the deepest.
        decoder: that sequence -> (N, dense_channels, h, w), brought to (H, W) where it is smaller. It may give several
            maps, finest first, of which that is the first: tasks and heads can read them as `Features.decoded`.
        in_channels: channels of the images.
        pooled_channels: channels of the deepest map.
        dense_channels: channels of the decoder's (first) map; 0: it has no decoder.
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

    @cached_property
    def levels(self) -> Levels:
        """Channels and strides of all maps, as a copy of the network gives them for one small image in eval mode.

        Raises:
            SsmtlError: it takes no image of any size that is tried.
        """
        network, problem = copy.deepcopy(self).cpu().float().eval(), "its deepest map is always a single pixel"
        for size in _TRIED:
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=()):
                    features: Features = network(torch.zeros(1, self.in_channels, size, size))
                    encoded, decoded = features.pyramid, features.decoded if self.dense_channels else []
            except Exception as error:  # not least an AttributeError: torch would say that there are no levels
                problem = in_one_line(error)
                continue
            if min(one.shape[2] for one in (*encoded, *decoded)) > 1:  # of a single pixel the stride may be any
                return Levels(_levels(encoded, size), _levels(decoded, size))
        tried = f"{', '.join(map(str, _TRIED))} pixels"
        raise SsmtlError(f"{type(self).__name__}: its levels cannot be found by images of {tried} ({problem})")


class Traceable(nn.Module):
    """A backbone as a function of tensors: images in, the tensors of some features out, for export and tracing.

    An object that computes when it is read, as `Features` does, is no result for those. Export goes by running it:

        torch.export.export(Traceable(backbone.eval()), (image,), strict=False)

    A head on a backbone (`Downstream`) gives a tensor and needs none of this.
    """

    def __init__(self, backbone: Backbone, features: Sequence[Feature] = ("dense",)) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = tuple(features)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The tensors of these features, in order; all maps of one that has several (none else is computed)."""
        features: Features = self.backbone(image)
        return tuple(tensor for feature in self.features for tensor in features.tensors(feature))


def _levels(maps: Sequence[Tensor], size: int) -> tuple[Level, ...]:
    return tuple(Level(one.shape[1], round(size / one.shape[2])) for one in maps)
