"""Batches of slices, and a whole step of MoCo V2 from them, against MONAI and lightly as their documents use them.

    python benchmarks/data_path.py [--rounds N] [--json] [--only WORD] [--quick]

A round is so many slices from the start of an epoch on. lightly comes into runs/bench/peers by `pip install`, for our
torch; where it cannot be had, its rows are skipped.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_up import random_store, trainer, write_scans
from timing import Act, Figure, Group, Ratio, Skipped, Way, answered, main
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ssmtl_moco.module import MocoV2
from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.runtime.allocator import keep_memory

PEERS = Path("runs/bench/peers")
LIGHTLY = ("lightly==1.6.0", "lightly-utils==0.0.2")  # MIT
BATCH, WORKERS, T, SPAN, SLICES = 16, 2, 5, 11, 50
PAIR = (f"reconstruct_prev:t={T}", f"reconstruct_next:t={T}")


def ours(tasks: tuple[str, ...], size: int, batches: int, volumes: int, views: bool) -> Act:
    keep_memory(torch.device("cpu"))
    made = trainer("unet:encoder=plain,width=8", tasks, size, BATCH, random_store(volumes, SLICES, size))
    start = itertools.count(step=batches)

    def load() -> None:
        first = next(start)
        for i in range(first, first + batches):
            batch = made.load.plain(i)
            for _ in range(2 if views else 0):
                MocoV2._augment(batch.anchor)

    return load


class Repeated(Dataset[Any]):
    """Items of another data set, over and over, `number` of them."""

    def __init__(self, items: Any, number: int) -> None:
        self.items, self.number = items, number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, i: int) -> Any:
        return self.items[i % len(self.items)]


def epoch(items: Any, number: int, workers: int = WORKERS) -> Act:
    """Load `number` items in batches, by workers that stay."""
    loader = DataLoader(
        Repeated(items, number), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )

    def load() -> None:
        for _ in loader:
            pass

    return load


def monai(size: int, batches: int, volumes: int, together: bool) -> Act:
    """MONAI's CacheDataset, and of each volume a random stack of slices that holds t = ±5.

    `together`: a batch is of one volume, by the process itself, which is the fastest and mixes no patients.
    """
    warnings.simplefilter("ignore")
    try:
        from monai.data import CacheDataset, list_data_collate
        from monai.transforms import (
            Compose,
            EnsureChannelFirstd,
            LoadImaged,
            NormalizeIntensityd,
            RandSpatialCropd,
            RandSpatialCropSamplesd,
        )
    except ImportError as error:
        raise Skipped(f"MONAI is not installed ({error})") from error
    scans = write_scans(Path(tempfile.mkdtemp()), volumes, (size, size, SLICES))
    how: dict[str, Any] = {"roi_size": (size, size, SPAN), "random_size": False}
    crop = RandSpatialCropSamplesd("image", num_samples=BATCH, **how) if together else RandSpatialCropd("image", **how)
    ready = [LoadImaged("image"), EnsureChannelFirstd("image"), NormalizeIntensityd("image"), crop]
    items = CacheDataset([{"image": str(scan.path)} for scan in scans], Compose(ready), num_workers=1, progress=False)
    if not together:
        return epoch(items, batches * BATCH)
    loader = DataLoader(Repeated(items, batches), 1, shuffle=True, collate_fn=list_data_collate)
    return lambda: [None for _ in loader]


def batches_alone(size: int, batches: int, volumes: int) -> Act:
    """The same batches of ±t without a training, whose trial of the network would count as memory."""
    store = random_store(volumes, SLICES, size)
    plan = Plan(store.extents, [{"pair": {"before": (-T,), "behind": (T,)}}] * volumes)
    load = Loader(store, Sampler(plan, BATCH, 0), torch.device("cpu"))

    def make() -> None:
        for i in range(batches):
            load(i)

    return make


def memory_of(make: Callable[..., Act], *args: Any) -> float:
    """MB that a way and its workers hold once it was done, pages that they share counted once."""
    act = make(*args)
    act()
    held = 0.0
    for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        held += next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
    return held


def memory(size: int, batches: int, volumes: int) -> str:
    """What ours holds against MONAI with workers and without."""
    peers = {True: "a batch of one volume", False: f"{WORKERS} workers"}
    mb = {name: answered(memory_of, monai, size, batches, volumes, one) for one, name in peers.items()}
    held = answered(memory_of, batches_alone, size, batches, volumes)
    return "; ".join(f"{held / other:.2f} of {name} ({held:.0f} and {other:,.0f} MB, 1)" for name, other in mb.items())


def lightly(module: str) -> Any:
    """A module of lightly, from a folder of its own, into which pip brings it without what it needs: we have that."""
    made = PEERS / "-".join(LIGHTLY)
    if not made.is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", PEERS]
        done = subprocess.run([*command, *LIGHTLY], capture_output=True, text=True)
        if done.returncode:
            raise Skipped(f"lightly cannot be installed ({(done.stderr.splitlines() or ['pip fails'])[-1][:100]})")
        made.touch()
    sys.path.append(str(PEERS))
    warnings.simplefilter("ignore")
    try:
        return importlib.import_module(f"lightly.{module}")
    except ImportError as error:
        raise Skipped(f"lightly cannot be imported ({error})") from error


class Pictures(Dataset[Any]):
    """PNG files, through a transform."""

    def __init__(self, size: int, transform: Any) -> None:
        from PIL import Image

        self.open, self.transform, folder = Image.open, transform, Path(tempfile.mkdtemp())
        rng = np.random.default_rng(0)
        self.files = [folder / f"{i}.png" for i in range(128)]
        for file in self.files:
            coarse = rng.normal(120, 30, (size // 8, size // 8)).repeat(8, 0).repeat(8, 1)
            Image.fromarray((coarse + rng.normal(0, 3, (size, size))).clip(0, 255).astype(np.uint8)).save(file)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        return self.transform(self.open(self.files[i]).convert("RGB"))


def lightly_views(size: int, batches: int, gray: bool) -> Act:
    """lightly's transform of MoCo V2, on PNG files; `gray`: only what suits gray slices, flips and blur."""
    without: dict[str, float] = {"cj_prob": 0.0, "random_gray_scale": 0.0, "min_scale": 1.0} if gray else {}
    transform = lightly("transforms").MoCoV2Transform(input_size=size, **without)
    return epoch(Pictures(size, transform), batches * BATCH)


def our_step(size: int, steps: int, groups: int) -> Act:
    made = trainer("fcn:encoder=resnet18", (f"moco_v2:bn_groups={groups}",), size, BATCH)

    def train() -> None:
        for _ in range(steps):
            made._update()

    return train


def lightly_step(size: int, steps: int) -> Act:
    """The recipe of lightly's examples/pytorch/moco.py: ResNet18, SGD, its transform, its loss with a queue."""
    from torchvision.models import resnet18

    loss = lightly("loss").NTXentLoss(memory_bank_size=(1024, 128))
    head = lightly("models.modules").MoCoProjectionHead(512, 512, 128)
    update = lightly("models.utils").update_momentum
    images = Pictures(size, lightly("transforms").MoCoV2Transform(input_size=size))
    backbone = nn.Sequential(*list(resnet18().children())[:-1])
    key, key_head = copy.deepcopy(backbone).requires_grad_(False), copy.deepcopy(head).requires_grad_(False)
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.06)
    loader = DataLoader(Repeated(images, steps * BATCH), BATCH, True, num_workers=WORKERS, persistent_workers=True)

    def train() -> None:
        for one, other in loader:
            update(backbone, key, m=0.99)
            update(head, key_head, m=0.99)
            query = head(backbone(one).flatten(start_dim=1))
            with torch.no_grad():
                wanted = key_head(key(other).flatten(start_dim=1))
            loss(query, wanted).backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def rows(quick: bool) -> Iterator[Group | Figure]:
    for size in (32,) if quick else (64, 256):
        batches = 1 if quick else 16 if size == 64 else 6
        volumes = 2 if quick else 24 if size == 64 else 12
        several, one = f"MONAI CacheDataset, {WORKERS} workers", "MONAI CacheDataset, a batch of one volume"
        yield Group(
            f"±{T} slices, {size} px",
            {
                "ours": Way(ours, (PAIR, size, batches, volumes, False), apart=True),
                several: Way(monai, (size, batches, volumes, False), apart=True),
                one: Way(monai, (size, batches, volumes, True), apart=True),
            },
            [Ratio("ours", several, "≥ 15", faster=True), Ratio("ours", one, faster=True)],
            rounds=5,
        )
        title = f"memory of ±{T} slices, {size} px, against MONAI"
        yield Figure(title, lambda _, how=(size, batches, volumes): memory(*how), "≤ 0.5")
    for size in () if quick else (64, 256):
        views, batches = f"lightly's MoCoV2Transform of PNG, {WORKERS} workers", 16 if size == 64 else 6
        gray = f"{views}, flip and blur only"
        yield Group(
            f"two views of MoCo, {size} px",
            {
                "ours": Way(ours, (("moco_v2",), size, batches, 24, True), apart=True),
                views: Way(lightly_views, (size, batches, False), apart=True),
                gray: Way(lightly_views, (size, batches, True), apart=True),
            },
            [Ratio("ours", views, "≥ 12" if size == 64 else "≥ 8", faster=True), Ratio("ours", gray, faster=True)],
            rounds=5,
        )
    if not quick:
        one, two, recipe = "batch norm over the batch", "batch norm over two groups", "lightly's recipe"
        yield Group(
            "whole step of MoCo V2, ResNet18, 64 px, 8 steps",
            {
                one: Way(our_step, (64, 8, 1), apart=True),
                two: Way(our_step, (64, 8, 2), apart=True),
                recipe: Way(lightly_step, (64, 8), apart=True),
            },
            [Ratio(one, recipe, "≤ 1.0"), Ratio(two, recipe, "≤ 1.02"), Ratio(two, one)],
            rounds=5,
        )


if __name__ == "__main__":
    main(__doc__, rows)
