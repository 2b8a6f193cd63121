"""smp's decoders, made to return all their maps: smp's modules under smp's names, run in smp's order.

The finest map equals the library's, bit for bit; a test checks that for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional as F


def with_all_maps(decoder: nn.Module) -> nn.Module:
    """Return a decoder with the same weights that returns all its maps, finest first; `decoder` if it has one map only.

    PSPNet, DeepLabV3 and SegFormer do not pass through maps of several sizes.
    """
    kind = _KINDS.get(type(decoder))
    return decoder if kind is None else kind(decoder)


class _AllMaps(nn.Module):
    """Takes over the modules of smp's decoder, so that weights keep their names; `forward` returns the finest first."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        for name, module in decoder.named_children():
            self.add_module(name, module)


class _Unet(_AllMaps):
    center: nn.Module
    blocks: nn.ModuleList

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        sizes = [level.shape[2:] for level in maps[-2::-1]]
        skips = [*maps[-2:0:-1], None]  # only the size of the first map, the image in most encoders, is used
        decoded = [self.center(maps[-1])]
        for block, (height, width), skip in zip(self.blocks, sizes, skips, strict=True):
            decoded.append(block(decoded[-1], height, width, skip_connection=skip))
        return decoded[:0:-1]


class _Manet(_AllMaps):
    center: nn.Module
    blocks: nn.ModuleList

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return _through(self.blocks, self.center(maps[-1]), maps)


class _Linknet(_AllMaps):
    blocks: nn.ModuleList

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return _through(self.blocks, maps[-1], maps)


def _through(blocks: nn.ModuleList, deepest: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    decoded = [deepest]
    for block, skip in zip(blocks, [*maps[-2:0:-1], None], strict=True):
        decoded.append(block(decoded[-1], skip))
    return decoded[:0:-1]


class _UnetPlusPlus(_AllMaps):
    """Its maps are those of the outermost row, from which the last one is made."""

    blocks: nn.ModuleDict

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps, depth = maps[:0:-1], len(maps) - 2
        grid: dict[tuple[int, int], Tensor] = {}  # by row and size
        for step in range(depth):  # diagonal by diagonal, as smp does: gradients are summed up in the same order
            for row in range(depth - step):
                size = row + step
                below = grid[row, size - 1] if step else maps[size]
                beside = [grid[other, size] for other in range(row + 1, size + 1)]
                joined = torch.cat([*beside, maps[size + 1]], dim=1) if beside else maps[size + 1]
                grid[row, size] = self.blocks[f"x_{row}_{size}"](below, joined)
        last = self.blocks[f"x_0_{depth}"](grid[0, depth - 1])
        return [last, *(grid[0, size] for size in reversed(range(depth)))]


class _Fpn(_AllMaps):
    p2: nn.Module
    p3: nn.Module
    p4: nn.Module
    p5: nn.Module
    seg_blocks: nn.ModuleList
    merge: nn.Module
    dropout: nn.Module

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        decoded = [self.p5(maps[-1])]
        for block, skip in zip((self.p4, self.p3, self.p2), maps[-2:-5:-1], strict=True):
            decoded.append(block(decoded[-1], skip))
        merged = self.merge([block(level) for block, level in zip(self.seg_blocks, decoded, strict=True)])
        return [self.dropout(merged), *reversed(decoded)]


class _Pan(_AllMaps):
    fpa: nn.Module
    gau1: nn.Module
    gau2: nn.Module
    gau3: nn.Module

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        decoded = [self.fpa(maps[-1])]
        for block, skip in zip((self.gau3, self.gau2, self.gau1), maps[-2:1:-1], strict=True):
            decoded.append(block(skip, decoded[-1]))
        return decoded[::-1]


class _UPerNet(_AllMaps):
    feature_norms: nn.ModuleList
    psp: nn.Module
    fpn_lateral_blocks: nn.ModuleList
    fpn_conv_blocks: nn.ModuleList
    fusion_block: nn.Module

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        normed = [norm(level) for norm, level in zip(self.feature_norms, maps[2:], strict=True)]
        decoded = [self.psp(normed[-1])]
        for block, skip in zip(self.fpn_lateral_blocks, normed[-2::-1], strict=True):
            decoded.append(block(decoded[-1], skip))
        decoded[1:] = [block(level) for block, level in zip(self.fpn_conv_blocks, decoded[1:], strict=True)]
        size = decoded[-1].shape[2:]
        same = [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in reversed(decoded)]
        return [self.fusion_block(torch.cat(same, dim=1)), *reversed(decoded)]


_KINDS: dict[type[nn.Module], type[_AllMaps]] = {
    UnetDecoder: _Unet,
    UnetPlusPlusDecoder: _UnetPlusPlus,
    MAnetDecoder: _Manet,
    LinknetDecoder: _Linknet,
    FPNDecoder: _Fpn,
    PANDecoder: _Pan,
    UPerNetDecoder: _UPerNet,
}
