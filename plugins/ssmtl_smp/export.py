"""Backbones and models as folders of smp, and smp to open them."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_smp.plain import DECODER, plain
from ssmtl_toolkit.engine.export import Exported
from ssmtl_toolkit.errors import UsageError

_PLAIN = "ssmtl_plain.py"


def write_model(exported: Exported, folder: Path, architecture: str, encoder: str, width: int) -> str:
    """Write config.json and model.safetensors as smp does, and with encoder `plain` the file that defines it.

    Raises:
        UsageError: the head is not one convolution of 1 x 1 pixels, which smp's heads can do.
    """
    options: dict[str, Any] = {"encoder_name": encoder}
    if encoder == "plain":
        options = {"encoder_name": plain(width), "decoder_channels": [width * times for times in DECODER]}
        shutil.copyfile(Path(__file__).with_name("plain.py"), folder / _PLAIN)
    kind = {name.lower(): getattr(smp, name) for name in dir(smp)}[architecture]
    upsampled = "upsampling" in inspect.signature(kind).parameters  # smp's own would align corners
    options |= {"upsampling": 1} if upsampled else {}
    convolution = _convolution(exported)
    classes = 1 if convolution is None else convolution.out_channels
    channels = exported.backbone.in_channels
    network = kind(encoder_weights=None, in_channels=channels, classes=classes, **options)
    network.encoder.load_state_dict(exported.backbone.encoder.state_dict())
    network.decoder.load_state_dict(exported.backbone.decoder.state_dict())
    _fill(network.segmentation_head[0], convolution)
    network.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # smp's own says nothing of the weights
    return _opening(convolution, upsampled, width if encoder == "plain" else None)


def _convolution(exported: Exported) -> nn.Conv2d | None:
    """The head's only layer; None: there is no head."""
    if exported.head is None:
        return None
    layers = [module for module in exported.head.modules() if not list(module.children()) and list(module.parameters())]
    if len(layers) != 1 or not isinstance(layers[0], nn.Conv2d) or layers[0].kernel_size != (1, 1):
        raise UsageError(
            "export 'smp': the head is not one convolution of 1 x 1 pixels, and smp's heads are one convolution; "
            "export to torch or onnx"
        )
    return layers[0]


def _fill(layer: nn.Conv2d, convolution: nn.Conv2d | None) -> None:
    """Put a convolution of 1 x 1 pixels into the middle of smp's; without one it is zero."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()  # type: ignore[union-attr]
        if convolution is not None:
            middle = layer.kernel_size[0] // 2
            layer.weight[:, :, middle, middle] = convolution.weight[:, :, 0, 0]
            if convolution.bias is not None:
                layer.bias.copy_(convolution.bias)  # type: ignore[union-attr]


def _opening(convolution: nn.Conv2d | None, upsampled: bool, width: int | None) -> str:
    first = "import segmentation_models_pytorch as smp\n"
    if width is not None:
        first = f"import sys\n\n{first}\nsys.path.append('FOLDER')\nimport ssmtl_plain\n\nssmtl_plain.plain({width})\n"
    more = ", classes=4, strict=False" if convolution is None else ""
    text = f"```python\n{first}network = smp.from_pretrained('FOLDER'{more})\n```"
    if convolution is None:
        text += "\n\nEncoder and decoder are trained; the segmentation head is to be trained for your classes."
    if upsampled:
        text += "\n\nMaps are smaller than the image: resize them (bilinear, corners not aligned)."
    return text


def outputs(exported: Exported, folder: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a model computes, or the finest map of a backbone's decoder, here and in smp."""
    network: Any = smp.from_pretrained(str(folder)).eval()
    if exported.head is None:
        return exported.backbone(images).decoded[0], network.decoder(network.encoder(images))
    maps: Tensor = network(images)
    if maps.shape[2:] != images.shape[2:]:
        maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)
    return exported.module(images), maps
