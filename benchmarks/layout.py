"""Memory layout and precision on this machine: a training step with each against float32 in the default layout.

    python benchmarks/layout.py [--rounds N] [--json] [--only WORD] [--quick]

On the GPU, if there is one. The choices of `--channels-last auto` and `--precision auto` should be the fastest here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import Act, Group, Ratio, Way, main

from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec

KINDS = {
    "float32": (torch.contiguous_format, torch.float32),
    "float32 channels_last": (torch.channels_last, torch.float32),
    "bf16": (torch.contiguous_format, torch.bfloat16),
    "bf16 channels_last": (torch.channels_last, torch.bfloat16),
}


def step(network: str, size: int, kind: str) -> Act:
    device, (layout, precision) = "cuda" if torch.cuda.is_available() else "cpu", KINDS[kind]
    torch.manual_seed(0)
    unet = registry().resolve(BackboneSpec, network).build(1).to(device).to(memory_format=layout)
    optimizer = torch.optim.Adam(unet.parameters(), fused=True)
    image = torch.randn(16, 1, size, size, device=device)

    def once() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
            loss = unet(image).dense.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return once


def rows(quick: bool) -> Iterator[Group]:
    size, kinds = (32, ("float32", "float32 channels_last")) if quick else (64, tuple(KINDS))
    networks = ("unet:encoder=plain,width=16",) if quick else ("unet:encoder=plain,width=16", "unet:encoder=resnet18")
    for network in networks:
        ways = {kind: Way(step, (network, size, kind)) for kind in kinds}
        ratios = [Ratio(kind, "float32") for kind in kinds[1:]]
        yield Group(f"step of {network}, {size} px", ways, ratios, rounds=3)


if __name__ == "__main__":
    main(__doc__, rows)
