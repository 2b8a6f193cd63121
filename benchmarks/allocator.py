"""What keeping the memory of large tensors saves: a training step and a forward pass with and without `keep_memory`.

    python benchmarks/allocator.py [ROUNDS]

Both run in processes of their own that take turns, on one core; the figures are medians of CPU time and wall time, and
of their ratios by round.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time

BACKBONE, BATCH = "unet:encoder=plain,width=16", 16
CASES = (("step", 64), ("step", 128), ("step", 256), ("forward", 256))
TIMES = 3  # in a process, after one that is not timed


def measure(kind: str, size: int, kept: bool) -> dict[str, float]:
    """Time it in this process."""
    import torch

    from ssmtl_toolkit.registry import registry
    from ssmtl_toolkit.runtime.allocator import keep_memory
    from ssmtl_toolkit.specs import BackboneSpec

    torch.set_num_threads(1)
    if kept and not keep_memory(torch.device("cpu")):
        raise SystemExit("the allocator cannot be tuned here: another libc, or variables MALLOC_… are set")
    backbone = registry().resolve(BackboneSpec, BACKBONE).build(1)
    optimizer = torch.optim.Adam(backbone.parameters(), fused=True)
    images = torch.randn(BATCH, 1, size, size)

    def once() -> None:
        with torch.set_grad_enabled(kind == "step"):
            loss = backbone(images).dense.square().mean()
        if kind == "step":
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    once()
    cpu, wall = _cpu(), time.perf_counter()
    for _ in range(TIMES):
        once()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu": (_cpu() - cpu) / TIMES, "wall": (time.perf_counter() - wall) / TIMES, "peak": float(peak)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(rounds: int) -> None:
    """Print a line for each case."""
    for kind, size in CASES:
        ratios: dict[str, list[float]] = {"cpu": [], "wall": [], "peak": []}
        for _ in range(rounds):
            plain, kept = (_in_a_process(kind, size, kept) for kept in (False, True))
            for name, values in ratios.items():
                values.append(kept[name] / plain[name])
        told = ", ".join(
            f"{name} {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for name, values in ratios.items()
        )
        print(f"{kind} {size} px: kept against not: {told}", flush=True)


def _in_a_process(kind: str, size: int, kept: bool) -> dict[str, float]:
    command = [sys.executable, __file__, kind, str(size), "kept" if kept else "plain"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "kept")))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
