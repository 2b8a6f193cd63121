"""Memory layout and precision on this machine: a training step with each, relative to float32 in the default layout.

    python benchmarks/layout.py [cpu|cuda]

The choices of `--channels-last auto` and `--precision auto` should be the fastest here.
"""

import statistics
import sys
import time
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch


def make_step(device: str, layout: torch.memory_format, precision: torch.dtype) -> Callable[[], None]:
    torch.manual_seed(0)
    unet = smp.Unet("resnet18", encoder_weights=None, in_channels=1).to(device).to(memory_format=layout)
    optimizer = torch.optim.Adam(unet.parameters(), fused=True)
    image = torch.randn(16, 1, 64, 64, device=device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
            loss = unet(image).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main(device: str) -> None:
    plain, last = torch.contiguous_format, torch.channels_last
    kinds = {
        "float32": make_step(device, plain, torch.float32),
        "float32 channels_last": make_step(device, last, torch.float32),
        "bf16": make_step(device, plain, torch.bfloat16),
        "bf16 channels_last": make_step(device, last, torch.bfloat16),
    }
    for step in kinds.values():
        step()
    rounds = [{name: seconds(step) for name, step in kinds.items()} for _ in range(8)]
    for name in kinds:
        ratio = statistics.median(r[name] / r["float32"] for r in rounds)
        print(f"{name:24s} {statistics.median(r[name] for r in rounds) * 1e3:8.1f} ms   {ratio:6.2f} x float32")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
