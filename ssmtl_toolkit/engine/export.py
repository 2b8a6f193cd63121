"""What an `ExportSpec` is given: trained weights, ready to be written for another library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.specs import BackboneSpec

_LEAST = 64  # pixels; of fewer the deepest maps of most networks are a single one, which is traced as a special case


@dataclass(frozen=True)
class Exported:
    """A pre-trained backbone or a fine-tuned model, in eval mode on the CPU.

    Attributes:
        spec: of the backbone.
        backbone, head: the networks; a pre-trained backbone has no head.
        module: prepared images (N, C, H, W) -> maps of the head (N, K, H, W), or the backbone's dense map.
        about: the metadata of the weights.
        usage: how images are prepared and what the maps mean, as JSON (`runtime/usage.py`).
        card: the same in words, and what is known of the training, in Markdown; its first line is the title.
        folder: where the weights come from: a run folder, or that of the file.
        save: writes the toolkit's own file, without the digests of scans unless it is asked to keep them.
    """

    spec: BackboneSpec
    backbone: Backbone
    head: Head | None
    module: nn.Module
    about: Mapping[str, Any]
    usage: Mapping[str, Any]
    card: str
    folder: Path
    save: Callable[[Path, bool], None]

    def images(self, number: int = 2, *, larger: bool = False) -> Tensor:
        """Images as a network sees them, of noise, at the size that it was trained at.

        If `larger`, they are not square and large enough for tracing any size from them.
        """
        side = self.size
        height = max(_LEAST, (side + 31) // 32 * 32) if larger else side
        shape = (number, self.backbone.in_channels, height, height + 32 if larger else side)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    @property
    def size(self) -> int:
        """Rows and columns of the images that it was trained on."""
        size: int = self.about["prepare"]["size"]
        return size
