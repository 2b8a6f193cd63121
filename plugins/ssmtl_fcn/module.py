"""The FCN: timm's feature maps, scored by 1x1 convolutions and summed from the deepest up."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.errors import SsmtlError, UsageError


class FcnDecoder(nn.Module):
    """Turns the deepest map into a dense one and adds, map by map, the finer ones down to `stride`.

    Returns the map after each of these steps, finest first. The first has that stride; the backbone resizes it to the
    image (bilinear).
    """

    def __init__(self, maps: list[int], strides: list[int], stride: int, channels: int) -> None:
        super().__init__()
        self.fused = [i for i in range(len(maps) - 1) if strides[i] >= stride]
        self.deepest = nn.Sequential(
            nn.Conv2d(maps[-1], maps[-1] // 4, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(maps[-1] // 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(maps[-1] // 4, channels, kernel_size=1),
        )
        self.skips = nn.ModuleList(nn.Conv2d(maps[i], channels, kernel_size=1) for i in self.fused)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        decoded = [self.deepest(maps[-1])]
        for i, skip in zip(reversed(self.fused), reversed(self.skips), strict=True):
            larger = F.interpolate(decoded[-1], size=maps[i].shape[2:], mode="bilinear", align_corners=False)
            decoded.append(larger + skip(maps[i]))
        return decoded[::-1]


def build(encoder: str, stride: int, channels: int, weights: bool, in_channels: int) -> Backbone:
    """Make an FCN on a timm encoder.

    Raises:
        UsageError: timm has no such network, or it has no feature maps.
        SsmtlError: pre-trained weights could not be downloaded.
    """
    try:
        with hub() if weights else nullcontext():
            features: Any = timm.create_model(encoder, features_only=True, in_chans=in_channels, pretrained=weights)
    except OSError as error:
        raise SsmtlError(
            f"backbone fcn: timm's weights of {encoder!r} could not be downloaded ({type(error).__name__}); "
            f"go online once, or omit `weights` to start from random ones"
        ) from error
    except (RuntimeError, ValueError, AttributeError, AssertionError, TypeError) as error:
        near = [name for name in timm.list_models(f"*{encoder}*")[:5] if name != encoder]
        hint = f"; timm has {', '.join(near)}" if near else "; `timm.list_models()` lists the known ones"
        raise UsageError(f"backbone fcn: encoder {encoder!r} cannot be built: {str(error)[:200]}{hint}") from error
    maps, strides = features.feature_info.channels(), features.feature_info.reduction()
    return Backbone(features, FcnDecoder(maps, strides, stride, channels), in_channels, maps[-1], channels)
