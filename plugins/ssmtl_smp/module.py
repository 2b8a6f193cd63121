"""Builds smp networks as backbones, and the paper's plain U-Net encoder in smp's own terms."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import Tensor, nn

from ssmtl_smp.decoders import with_all_maps
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.text import did_you_mean


class PlainEncoder(nn.Module, EncoderMixin):
    """The contracting path of the standard U-Net: double 3x3 convolutions, max-pooling between them.

    Returns the image itself and `depth` maps at strides 1, 2, 4 …; smp's own encoders have strides 2, 4, 8 …. smp's
    decoder takes its sizes from the maps, so there is a skip at full resolution, as in the paper.
    """

    def __init__(self, out_channels: list[int], depth: int = 5, output_stride: int = 32) -> None:
        super().__init__()
        self._depth, self._output_stride = depth, output_stride
        self._out_channels, self._in_channels = list(out_channels), 3
        self._make_levels()

    def _make_levels(self) -> None:
        channels = [self._in_channels, *self._out_channels[1 : self._depth + 1]]
        self.levels = nn.ModuleList(
            nn.Sequential(
                Conv2dReLU(before, after, kernel_size=3, padding=1, use_norm="batchnorm"),
                Conv2dReLU(after, after, kernel_size=3, padding=1, use_norm="batchnorm"),
            )
            for before, after in pairwise(channels)
        )

    def set_in_channels(self, in_channels: int, pretrained: bool = False) -> None:
        """Change the number of input channels, with new weights."""
        self._in_channels = self._out_channels[0] = in_channels
        self._make_levels()

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for i, level in enumerate(self.levels):
            maps.append(level(torch.max_pool2d(maps[-1], 2) if i else image))
        return maps


def plain(width: int) -> str:
    """Register the plain encoder of `width` x (1, 2, 4, 8, 16) channels with smp and return its name there."""
    name = f"ssmtl-plain-{width}"
    channels = [3, *(width * 2**level for level in range(5))]
    encoders[name] = {
        "encoder": PlainEncoder,
        "pretrained_settings": {},
        "params": {"out_channels": channels},
    }
    return name


def build(architecture: str, encoder: str, width: int, weights: str | None, in_channels: int) -> Backbone:
    """Make an smp network and use its encoder and decoder, without the segmentation head.

    Raises:
        UsageError: smp or timm has no such encoder, or the architecture cannot use it.
        SsmtlError: pre-trained weights could not be downloaded.
    """
    options: dict[str, Any] = {}
    if encoder == "plain":
        if architecture != "unet":
            raise UsageError(f"encoder 'plain' is the paper's U-Net encoder; {architecture!r} needs one of smp's")
        if weights:
            raise UsageError("there are no pre-trained weights for encoder 'plain'; omit `weights`")
        encoder, options = plain(width), {"decoder_channels": [width * 2**level for level in (3, 2, 1, 0, 0)]}
    try:
        with hub() if weights else nullcontext():
            network: Any = smp.create_model(
                architecture, encoder, encoder_weights=weights, in_channels=in_channels, classes=1, **options
            )
    except OSError as error:
        raise SsmtlError(
            f"backbone {architecture}: the weights {weights!r} of encoder {encoder!r} could not be downloaded from "
            f"the Hugging Face hub ({type(error).__name__}); go online once, or omit `weights`"
        ) from error
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        problem = f"backbone {architecture}: encoder {encoder!r}"
        if encoder not in encoders and not encoder.startswith("tu-"):
            raise UsageError(
                f"{problem}: smp has none of this name{did_you_mean(encoder, encoders)} (tu-NAME for timm's)"
            ) from error
        using = f" with weights {weights!r}" if weights else ""
        reason = str(error).strip("\"'")
        shown = reason if len(reason) <= 120 else f"{reason[:120]} …"
        raise UsageError(f"{problem}{using} cannot be built: {shown}") from error
    encoder_, decoder = network.encoder, with_all_maps(network.decoder)
    dense_channels = network.segmentation_head[0].in_channels
    return Backbone(encoder_, decoder, in_channels, encoder_.out_channels[-1], dense_channels)
