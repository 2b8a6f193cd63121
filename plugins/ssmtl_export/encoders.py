"""Encoders as networks of timm: tensors are put under timm's names, whichever library wrapped them here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from ssmtl_toolkit.engine.export import Exported
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import did_you_mean, listed, printable

_WRAPPED = "model."  # smp keeps timm's networks (tu-…) below this name


def write_encoder(exported: Exported, folder: Path, name: str) -> str:
    """Write config.json and model.safetensors as timm does.

    Raises:
        UsageError: timm has no such network, or it does not have the encoder's tensors.
    """
    name = name.removeprefix("tu-")
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models()) if name else ""
        known = f"timm has no network {name!r}{near}" if name else "the backbone does not name its encoder"
        raise UsageError(
            f"export 'timm': {known}; give one that is the same, timm:network=…, or export to torch or onnx"
        )
    channels = exported.backbone.in_channels
    model: Any = timm.create_model(name, in_chans=channels, num_classes=0)
    names = list(model.state_dict())
    tensors = exported.backbone.encoder.state_dict()
    placed, unplaced = _renamed(tensors, names)
    if unplaced:
        raise UsageError(
            f"export 'timm': {len(unplaced)} of the {len(tensors)} tensors of the encoder have no place in timm's "
            f"{name!r}, such as {printable(unplaced[0])}: it is another network; export to torch or onnx"
        )
    missing = model.load_state_dict(placed, strict=False).missing_keys
    config = {"input_size": [channels, exported.size, exported.size], "mean": [0.0] * channels, "std": [1.0] * channels}
    save_for_hf(model, str(folder), model_config=config, model_args={"in_chans": channels}, safe_serialization=True)
    fresh = listed(missing, 5) if missing else ""
    return (
        f"`timm.create_model('local-dir:FOLDER', pretrained=True, features_only=True)` gives the maps of the encoder; "
        f"without `features_only` it is the whole {name}, to be given a classifier by `num_classes=…`"
        + (f"; {fresh} were not part of the encoder, and are not trained." if fresh else ".")
    )


def _renamed(tensors: Mapping[str, Tensor], names: list[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under the names of timm's whole network, and those that have none.

    A network of features only has the outermost modules under names without dots: `stages.0` is `stages_0`.
    """
    known = {variant: name for name in reversed(names) for variant in _variants(name)}
    placed, unplaced = {}, []
    for name, tensor in tensors.items():
        inner = name.removeprefix(_WRAPPED)
        if inner in known:
            placed[known[inner]] = tensor
        else:
            unplaced.append(name)
    return placed, unplaced


def _variants(name: str) -> list[str]:
    parts = name.split(".")
    return ["_".join(parts[:n]) + "." + ".".join(parts[n:]) for n in range(1, len(parts))] or [name]


def maps_of(folder: Path, images: Tensor) -> list[Tensor]:
    """The maps that timm's network in a folder makes of images, finest first."""
    network: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    with torch.no_grad():
        maps: list[Tensor] = network.eval()(images)
    return maps
