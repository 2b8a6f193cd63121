"""How much longer a step of `ssmtl run` takes than a bare loop over the same modules and math on random tensors.

    python benchmarks/step_overhead.py [ROUNDS]

Both take turns in one process, so that a busy machine slows both alike; the figure is the median of the ratios.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from made_up import random_store
from torch import nn
from torch.nn import functional as F

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.pretraining.pretrain import make_plan
from ssmtl_toolkit.pretraining.trainer import Trainer
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress

TASKS = ("reconstruct_prev", "reconstruct_next", "slice_siam")
BATCH, SIZE, STEPS_A_ROUND = 16, 64, 4


def toolkit_step() -> Callable[[], None]:
    options = {"backbone": "unet:encoder=resnet18", "tasks": TASKS, "size": SIZE, "steps": 10**6}
    config = RunConfig.of(options).resolve()
    progress, store = Progress(), random_store(scans=2, slices=400, size=SIZE)
    fabric = make_fabric(config, progress)
    fabric.launch()
    trainer = Trainer(
        fabric, config, store, make_plan(store, config.tasks, progress), Path(tempfile.mkdtemp()), progress
    )
    return trainer._update


def bare_step() -> Callable[[], None]:
    torch.manual_seed(0)
    unet = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
    before, after = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 1, 1)
    predict = nn.Sequential(nn.Linear(512, 128), nn.ReLU(inplace=True), nn.Linear(128, 512))
    modules = nn.ModuleList([unet.encoder, unet.decoder, before, after, predict]).train()
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        anchor, prev, following, positive = torch.randn(4, BATCH, 1, SIZE, SIZE).unbind()
        maps = unet.encoder(anchor)
        dense = unet.decoder(maps)
        loss = F.mse_loss(before(dense), prev) + F.mse_loss(after(dense), following)
        predicted = predict(maps[-1].mean(dim=(2, 3)))
        with torch.no_grad():
            truth = unet.encoder(positive)[-1].mean(dim=(2, 3))
        loss = loss - F.cosine_similarity(predicted, truth).mean() / 3
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS_A_ROUND):
        step()
    return (time.perf_counter() - start) / STEPS_A_ROUND


def main(rounds: int) -> None:
    ours, bare = toolkit_step(), bare_step()
    seconds(ours), seconds(bare)
    pairs = [(seconds(ours), seconds(bare)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    print(f"toolkit {statistics.median(a for a, _ in pairs) * 1e3:.1f} ms a step")
    print(f"bare    {statistics.median(b for _, b in pairs) * 1e3:.1f} ms a step")
    print(f"ratio   {statistics.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f}, {rounds} rounds)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
