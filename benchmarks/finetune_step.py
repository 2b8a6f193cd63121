"""A step of `ssmtl finetune` against a bare loop over the same network with fused Adam.

    python benchmarks/finetune_step.py [--rounds N] [--json] [--only WORD] [--quick]

Each has a process of its own. The recipe of the paper has no augmentation and no average of weights, like the loop; the
default recipe has both, and is also compared with a loop that has them: the same augmentations, AdamW, and an average.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from made_up import random_store
from timing import Act, Group, Ratio, Way, main
from torch import nn

from ssmtl_toolkit.config import FinetuneConfig, ResolvedFinetune
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.loop import Loop
from ssmtl_toolkit.downstream.model import Downstream, ModelSpec
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.allocator import keep_memory
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec

NETWORK, BATCH, CLASSES = "unet:encoder=resnet18", 16, 5
BARE, SAME = "a bare loop", "a bare loop with our allocator settings"
LIKE = f"{SAME}, augmentations and average"


def network(size: int) -> Downstream:
    backbone, head = registry().resolve(BackboneSpec, NETWORK), registry().resolve(HeadSpec, "segmentation")
    return ModelSpec(backbone, head, Slicing(size=size), Classes.of_values(range(1, CLASSES)), channels=1).build()


def resolved(recipe: str, size: int) -> ResolvedFinetune:
    options = {"data": "phantom", "backbone": NETWORK, "size": size, "batch_size": BATCH, "recipe": recipe}
    return FinetuneConfig.of(options).resolve()


def ours(recipe: str, size: int) -> Act:
    store = random_store(scans=2, slices=50, size=size)
    targets = torch.randint(CLASSES, (len(store.slices), size, size), dtype=torch.uint8)
    config, fabric = resolved(recipe, size), make_fabric(FinetuneConfig(accelerator="cpu"), Progress())
    fabric.launch()
    loop = Loop(network(size), Examples(store, np.arange(len(store.slices)), targets), config, 0, fabric)
    loop.parts.train_mode(0)
    steps = itertools.count()
    return lambda: loop._update(next(steps))


def bare(size: int, kept: bool) -> Act:
    if kept:
        keep_memory(torch.device("cpu"))
    model = network(size).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        image, target = torch.randn(BATCH, 1, size, size), torch.randint(CLASSES, (BATCH, size, size))
        loss = model.loss(model(image), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def like(size: int) -> Act:
    keep_memory(torch.device("cpu"))
    model, config = network(size).train(), resolved("strong", size)
    augmenter = Augmenter(config.augment)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    average = [tensor.clone() for tensor in tensors]

    def step() -> None:
        image, target = torch.randn(BATCH, 1, size, size), torch.randint(CLASSES, (BATCH, size, size))
        image, target = augmenter.labelled(image, target)
        loss = model.loss(model(image), target)
        loss.backward()
        if config.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, tensors, 1 - config.average)

    return step


def rows(quick: bool) -> Iterator[Group]:
    size = 32 if quick else 64
    ways = {
        "paper recipe": Way(ours, ("paper", size), apart=True),
        "default recipe": Way(ours, ("strong", size), apart=True),
        BARE: Way(bare, (size, False), apart=True),
        SAME: Way(bare, (size, True), apart=True),
        LIKE: Way(like, (size,), apart=True),
    }
    ratios = [
        Ratio("paper recipe", BARE),
        Ratio("paper recipe", SAME, "≤ 1.02"),
        Ratio("default recipe", LIKE, "≤ 1.02"),
        Ratio("default recipe", SAME),
    ]
    if quick:
        ways, ratios = {name: ways[name] for name in ("default recipe", LIKE)}, ratios[2:3]
    yield Group(f"step of fine-tuning, {NETWORK}, {size} px, batch {BATCH}", ways, ratios, rounds=9, times=2)


if __name__ == "__main__":
    main(__doc__, rows)
