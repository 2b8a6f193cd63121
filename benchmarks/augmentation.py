"""What augmentation costs: each one, and the default list, against a forward and backward pass of a small network.

    python benchmarks/augmentation.py [--rounds N] [--json] [--only WORD] [--quick]

16 slices of 64 px and a plain U-Net of width 16: the larger the network, the less augmentation counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import Act, Group, Ratio, Way, main

from ssmtl_toolkit.config import FinetuneConfig
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import AugmentationSpec, BackboneSpec, HeadSpec

PASS, DEFAULT = "forward and backward", "the default list"


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 1, size, size), torch.randint(4, (16, size, size))


def network(size: int) -> Act:
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, "unet:encoder=plain,width=16").build(1)
    head, (image, target) = registry().resolve(HeadSpec, "segmentation").build(backbone, 4), batch(size)
    return lambda: head.loss(head(backbone(image)), target).backward()


def augmenting(names: tuple[str, ...], size: int) -> Act:
    augmenter = Augmenter([registry().resolve(AugmentationSpec, name) for name in names])
    image, target = batch(size)
    return lambda: augmenter.labelled(image, target)


def rows(quick: bool) -> Iterator[Group]:
    size, default = 32 if quick else 64, FinetuneConfig.model_fields["augment"].default
    names = [entry.spec.name for entry in registry().entries.values() if entry.spec.kind == "augmentation"]
    ways = {PASS: Way(network, (size,)), DEFAULT: Way(augmenting, (default, size))}
    ways |= {f"{name}:p=1": Way(augmenting, ((f"{name}:p=1",), size)) for name in names}
    yield Group("augmentation", ways, [Ratio(name, PASS) for name in ways if name != PASS], rounds=20)


if __name__ == "__main__":
    main(__doc__, rows)
