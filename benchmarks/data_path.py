"""Batches of slices, and a whole step of MoCo V2 from them, against MONAI and lightly as their documents use them.

    python benchmarks/data_path.py [--rounds N] [--json] [--only WORD] [--quick]

A round is so many slices from the start of an epoch on. lightly comes into runs/bench/peers by `pip install`, for our
torch; where it cannot be had, its rows are skipped.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_up import random_store, trainer, write_scans
from timing import Act, Group, Ratio, Skipped, Way, main
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ssmtl_moco.module import MocoV2
from ssmtl_toolkit.runtime.allocator import keep_memory

PEERS = Path("runs/bench/peers")
BATCH, WORKERS, T, SPAN = 16, 2, 5, 11


def ours(tasks: tuple[str, ...], size: int, batches: int, views: bool) -> Act:
    keep_memory(torch.device("cpu"))
    made = trainer("unet:encoder=plain,width=8", tasks, size, BATCH, random_store(scans=24, slices=50, size=size))
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


def monai(size: int, batches: int, volumes: int) -> Act:
    """MONAI's CacheDataset, and of each volume a random stack of slices that holds t = ±5."""
    warnings.simplefilter("ignore")
    try:
        from monai.data import CacheDataset
        from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, RandSpatialCropd
    except ImportError as error:
        raise Skipped(f"MONAI is not installed ({error})") from error
    scans = write_scans(Path(tempfile.mkdtemp()), volumes, (size, size, 50))
    crop = RandSpatialCropd("image", (size, size, SPAN), random_size=False)
    ready = [LoadImaged("image"), EnsureChannelFirstd("image"), NormalizeIntensityd("image"), crop]
    items = CacheDataset([{"image": str(scan.path)} for scan in scans], Compose(ready), num_workers=1, progress=False)
    return epoch(items, batches * BATCH)


def lightly(module: str) -> Any:
    """A module of lightly, which pip brings beside our own packages."""
    if not (PEERS / "lightly").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", PEERS]
        done = subprocess.run([*command, "lightly", "lightly-utils"], capture_output=True, text=True)
        if done.returncode:
            raise Skipped(f"lightly cannot be installed ({(done.stderr.splitlines() or ['pip fails'])[-1][:100]})")
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


def our_step(size: int, steps: int) -> Act:
    made = trainer("fcn:encoder=resnet18", ("moco_v2",), size, BATCH)

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


def rows(quick: bool) -> Iterator[Group]:
    pair = (f"reconstruct_prev:t={T}", f"reconstruct_next:t={T}")
    for size in (32,) if quick else (64, 256):
        batches = 1 if quick else 16 if size == 64 else 6
        volumes = 2 if quick else 24
        yield Group(
            f"±{T} slices, {size} px",
            {
                "ours": Way(ours, (pair, size, batches, False), apart=True),
                f"MONAI CacheDataset, {WORKERS} workers": Way(monai, (size, batches, volumes), apart=True),
            },
            [Ratio("ours", f"MONAI CacheDataset, {WORKERS} workers", faster=True)],
            rounds=5,
        )
    for size in () if quick else (64, 256):
        views, batches = f"lightly's MoCoV2Transform of PNG, {WORKERS} workers", 16 if size == 64 else 6
        gray = f"{views}, flip and blur only"
        yield Group(
            f"two views of MoCo, {size} px",
            {
                "ours": Way(ours, (("moco_v2",), size, batches, True), apart=True),
                views: Way(lightly_views, (size, batches, False), apart=True),
                gray: Way(lightly_views, (size, batches, True), apart=True),
            },
            [Ratio("ours", views, "≥ 12" if size == 64 else "≥ 8", faster=True), Ratio("ours", gray, faster=True)],
            rounds=5,
        )
    if not quick:
        yield Group(
            "whole step of MoCo V2, ResNet18, 64 px, 8 steps",
            {
                "ours": Way(our_step, (64, 8), apart=True),
                "lightly's recipe": Way(lightly_step, (64, 8), apart=True),
            },
            [Ratio("ours", "lightly's recipe", "≥ 1.15", faster=True)],
            rounds=5,
        )


if __name__ == "__main__":
    main(__doc__, rows)
