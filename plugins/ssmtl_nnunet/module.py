"""nnU-Net's networks with encoder and decoder apart, and together again as nnU-Net has them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn

from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.export import Exported

if TYPE_CHECKING:
    from ssmtl_nnunet import NnUnet

FILE = "nnunet.pth"
_HEADS = ".seg_layers."  # nnU-Net's own name for what it always trains anew


class Decoder(nn.Module):
    """nnU-Net's decoder, without the encoder that it holds a second time and without its segmentation layers.

    Returns the map of each stage, finest first.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.stages: nn.ModuleList = decoder.stages
        self.transpconvs: nn.ModuleList = decoder.transpconvs

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        decoded = [maps[-1]]
        for up, stage, skip in zip(self.transpconvs, self.stages, maps[-2::-1], strict=True):
            decoded.append(stage(torch.cat((up(decoded[-1]), skip), 1)))
        return decoded[:0:-1]


def _network(spec: NnUnet, in_channels: int) -> Any:
    """nnU-Net's whole network, with its usual instance norm and leaky ReLU."""
    kind, blocks = {
        "plain": (PlainConvUNet, "n_conv_per_stage"),
        "residual": (ResidualEncoderUNet, "n_blocks_per_stage"),
    }[spec.kind_of]
    features = _numbers(spec.features)
    return kind(
        input_channels=in_channels,
        n_stages=len(features),
        features_per_stage=features,
        conv_op=nn.Conv2d,
        kernel_sizes=_sides(spec.kernels),
        strides=_sides(spec.strides),
        num_classes=1,
        n_conv_per_stage_decoder=_numbers(spec.decoder),
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        **{blocks: _numbers(spec.blocks)},
    )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split("+")]


def _sides(text: str) -> list[list[int]]:
    pairs = (part.split("x") for part in text.split("+"))
    return [[int(pair[0]), int(pair[-1])] for pair in pairs]


def build(spec: NnUnet, in_channels: int) -> Backbone:
    """Make the network, with nnU-Net's initial weights."""
    network = _network(spec, in_channels)
    network.apply(network.initialize)
    _name_once(network)
    features = _numbers(spec.features)
    return Backbone(network.encoder, Decoder(network.decoder), in_channels, features[-1], features[0])


def _name_once(network: nn.Module) -> None:
    """Drop the second names of modules: blocks hold `conv`, `norm` and others beside the sequence of them all.

    Files of weights take no tensor twice, and blocks compute by the sequence.
    """
    for block in [module for module in network.modules() if "all_modules" in module._modules]:
        inner = set(block._modules["all_modules"].children())  # type: ignore[union-attr]
        for name in [name for name, child in block.named_children() if child in inner]:
            del block._modules[name]


def write_weights(exported: Exported, folder: Path) -> str:
    """Write the tensors under nnU-Net's names, each under all that it has there."""
    assert exported.spec.name == "nnunet"
    ours, names = exported.backbone.state_dict(), dict[int, list[str]]()
    theirs = _network(exported.spec, exported.backbone.in_channels).state_dict(keep_vars=True)  # type: ignore[arg-type]
    for name, tensor in theirs.items():
        names.setdefault(id(tensor), []).append(name)
    tensors = {
        n: ours[next(same for same in group if same in ours)]
        for group in names.values()
        for n in group
        if _HEADS not in n
    }
    stream = io.BytesIO()  # torch ends the process where it finds the disk full or broken itself
    torch.save({"network_weights": tensors}, stream)
    (folder / FILE).write_bytes(stream.getbuffer())
    return (
        f"`nnUNetv2_train DATASET 2d FOLD -pretrained_weights {FILE}`, with the plans that the network was made for; "
        f"all of it but the segmentation layers is loaded."
    )


def decoded(spec: NnUnet, folder: Path, images: Tensor) -> Tensor:
    """The finest map of nnU-Net's network with the file's weights, loaded by nnU-Net's rule."""
    tensors = torch.load(folder / FILE, weights_only=True)["network_weights"]
    network = _network(spec, images.shape[1]).eval()
    own = network.state_dict()
    network.load_state_dict({name: own[name] if _HEADS in name else tensors[name] for name in own})
    maps: list[Tensor] = []
    network.decoder.stages[-1].register_forward_hook(lambda module, inputs, output: maps.append(output))
    network(images)
    return maps[0]
