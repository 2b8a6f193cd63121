"""What it costs to sum gradients over two processes, by how torch's DistributedDataParallel does it.

    python benchmarks/gradients.py [--rounds N] [--json] [--only WORD] [--quick]

CPU time of a forward and backward pass on small images, where the sum is most of it, beyond that of the same pass
without a sum; ways take turns. `as a run` is what `ssmtl run` does.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from timing import Figure, main
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

SIZE, BATCH = 32, 2
RUN = {"gradient_as_bucket_view": True}
ALONE, BF16 = "without a sum", "sent as bf16"
WAYS = {
    ALONE: RUN,
    "as a run": RUN,
    "gradients beside the buckets": {},
    "buckets of 100 MB": {**RUN, "bucket_cap_mb": 100},
    "static graph": {**RUN, "static_graph": True},
    "buffers not sent": {**RUN, "broadcast_buffers": False},
    BF16: RUN,
}


def shared(name: str) -> DistributedDataParallel:
    warnings.simplefilter("ignore", FutureWarning)  # of another name for `broadcast_buffers` in newer versions
    torch.manual_seed(0)
    unet = smp.Unet("resnet18", encoder_weights=None, in_channels=1).train()
    made = DistributedDataParallel(unet, **WAYS[name])
    if name == BF16:
        made.register_comm_hook(None, bf16_compress_hook)
    return made


def act(name: str, model: nn.Module) -> float:
    """CPU seconds of a forward and a backward pass."""
    start = time.process_time()
    with model.no_sync() if name == ALONE else nullcontext():
        model(torch.randn(BATCH, 1, SIZE, SIZE)).square().mean().backward()
    taken = time.process_time() - start
    model.zero_grad(set_to_none=True)
    return taken


def rank(number: int, store: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way, round by round, in one of two processes."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=number, world_size=2, timeout=timedelta(minutes=5)
    )
    models = {name: shared(name) for name in WAYS}
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for i in range(rounds + 2):  # the first two build the buckets
        for name, model in models.items():
            seconds = act(name, model)
            if i >= 2:
                taken[name].append(seconds)
    distributed.destroy_process_group()
    return taken


def sums(rounds: int) -> str:
    store = Path(tempfile.mkdtemp()) / "store"
    other = multiprocessing.get_context("spawn").Process(target=rank, args=(1, store, rounds))
    other.start()
    taken = rank(0, store, rounds)
    other.join()
    told = []
    for name in list(WAYS)[1:]:
        more = [1000 * (a - b) for a, b in zip(taken[name], taken[ALONE], strict=True)]
        told.append(f"{name} {statistics.median(more):.0f} ({min(more):.0f} to {max(more):.0f}, {rounds})")
    return f"{1000 * statistics.median(taken[ALONE]):.0f} ms without; more with: {', '.join(told)}"


def rows(quick: bool) -> Iterator[Figure]:
    yield Figure("sum of the gradients of unet:encoder=resnet18 over two processes, CPU ms of each", sums, rounds=15)


if __name__ == "__main__":
    main(__doc__, rows)
