"""What keeping the memory of large tensors saves: a training step and a forward pass with and without `keep_memory`.

    python benchmarks/allocator.py [--rounds N] [--json] [--only WORD] [--quick]

Each has a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import Act, Group, Ratio, Skipped, Way, main

from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.allocator import keep_memory
from ssmtl_toolkit.specs import BackboneSpec

BACKBONE, BATCH = "unet:encoder=plain,width=16", 16
CASES = (("step", 64), ("step", 128), ("forward pass", 256))


def network(kind: str, size: int, kept: bool) -> Act:
    if kept and not keep_memory(torch.device("cpu")):
        raise Skipped("the allocator cannot be tuned here: another libc, or variables MALLOC_… are set")
    backbone = registry().resolve(BackboneSpec, BACKBONE).build(1)
    optimizer = torch.optim.Adam(backbone.parameters(), fused=True)
    images = torch.randn(BATCH, 1, size, size)

    def once() -> None:
        with torch.set_grad_enabled(kind == "step"):
            loss = backbone(images).dense.square().mean()
        if kind == "step":
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return once


def rows(quick: bool) -> Iterator[Group]:
    for kind, size in (("step", 32),) if quick else CASES:
        ways = {name: Way(network, (kind, size, name == "kept"), apart=True) for name in ("kept", "given back")}
        title = f"memory of large tensors, {kind}, {BACKBONE}, {size} px"
        yield Group(title, ways, [Ratio("kept", "given back")], rounds=5)


if __name__ == "__main__":
    main(__doc__, rows)
