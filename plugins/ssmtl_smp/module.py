"""Builds smp networks as backbones."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import encoders

from ssmtl_smp.decoders import with_all_maps
from ssmtl_smp.plain import DECODER, plain
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.text import did_you_mean


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
        encoder, options = plain(width), {"decoder_channels": [width * times for times in DECODER]}
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
