"""What checks train with: small parts with nothing odd about them, made-up slices, and the real trainer on these."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.data.store import SliceStore, StoredScan
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import Batch, Companion, Position, SharedEncoder, Step, TaskOutput
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.pretraining.pretrain import make_plan
from ssmtl_toolkit.pretraining.trainer import Trainer
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.folder import CHECKPOINTS
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, DatasetSpec, Feature, Scan, TaskSpec
from ssmtl_toolkit.testing.case import fail

SIZE, SPACING, ANCHORS = 32, 2.5, 8
CHANNELS = (1, 2)
"""How many channels images have: most checks take the first number, those that depend on it take both."""


class Small(BackboneSpec):
    """A network with little in it, to try other parts on."""

    name: ClassVar[str] = "small_sample"

    def build(self, in_channels: int) -> Backbone:
        return Backbone(_Encoder(in_channels), _Decoder(), in_channels, 16, 8)


class _Encoder(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.first(image)
        return [fine, self.second(fine)]


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(16 + 8, 8, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, coarse = maps
        dense: Tensor = self.up(torch.cat([F.interpolate(coarse, size=fine.shape[2:]), fine], dim=1)).relu()
        return [dense, F.avg_pool2d(dense, 2)]


class Repeat(TaskSpec):
    """Give the anchor back, from the dense map."""

    name: ClassVar[str] = "repeat_sample"
    needs: ClassVar[frozenset[Feature]] = frozenset({"dense"})

    def build(self, backbone: Backbone) -> nn.Module:
        return _Repeat(backbone.dense_channels, backbone.in_channels)


class _Repeat(nn.Module):
    def __init__(self, dense_channels: int, image_channels: int) -> None:
        super().__init__()
        self.decode = nn.Conv2d(dense_channels, image_channels, kernel_size=1)

    def forward(self, step: Step) -> TaskOutput:
        return TaskOutput(F.mse_loss(self.decode(step.features().dense).float(), step.anchor), pairs=len(step.anchor))


class Point(TaskSpec):
    """Make pooled features point one way; its loss is a cosine, which may be negative."""

    name: ClassVar[str] = "point_sample"
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    floor: ClassVar[float] = -1.0

    def build(self, backbone: Backbone) -> nn.Module:
        return _Point(backbone.pooled_channels)


class _Point(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(channels))

    def forward(self, step: Step) -> TaskOutput:
        pooled = step.features().pooled.float()
        loss = -F.cosine_similarity(pooled, self.direction.expand_as(pooled)).mean()
        return TaskOutput(loss, pairs=len(pooled))


class Follow(TaskSpec):
    """Tell the pooled features of the next slice, where there is one."""

    name: ClassVar[str] = "follow_sample"
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})

    def companions(self, spacing: float) -> Mapping[str, Sequence[int]]:
        return {"next": (1,)}

    def build(self, backbone: Backbone) -> nn.Module:
        return _Follow(backbone.pooled_channels)


class _Follow(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.predict = nn.Linear(channels, channels)

    def forward(self, step: Step) -> TaskOutput:
        after = step.companion("next")
        told = self.predict(after.of(step.features().pooled)).float()
        if not len(told):
            return TaskOutput.nothing(told)
        with torch.no_grad():
            truth = step.encode(after.image).pooled.float()
        return TaskOutput(F.mse_loss(told, truth), pairs=len(told))


class Nowhere(DatasetSpec):
    """Stands for the made-up slices in the options of a run."""

    name: ClassVar[str] = "nowhere_sample"

    def scans(self, cache: Path, readers: Any) -> list[Scan]:
        return []


def store_for(tasks: Sequence[TaskSpec], size: int = SIZE, channels: int = CHANNELS[0]) -> SliceStore:
    """Three made-up scans, long enough for all companions, whose slices change slowly from one to the next."""
    offsets = [o for task in tasks for candidates in task.companions(SPACING).values() for o in candidates]
    count = 8 + 2 * max([4, *map(abs, offsets)])
    generator = torch.Generator().manual_seed(0)
    scans, parts = [], []
    for i in range(3):
        ends = torch.randn(2, channels, 8, 8, generator=generator)
        mix = torch.linspace(0, 1, count)[:, None, None, None]
        slices = (1 - mix) * ends[0] + mix * ends[1] + 0.1 * torch.randn(count, channels, 8, 8, generator=generator)
        parts.append(F.interpolate(slices, (size, size), mode="bilinear").half())
        scan = Scan(Path(f"made-up-{i}"), f"made-up-{i}", f"p{i}")
        scans.append(StoredScan(scan, f"key-{i}", (f"{i}",), i * count, count, SPACING, "axial", 0, ()))
    return SliceStore(torch.cat(parts), tuple(scans), ())


def batch_for(tasks: Sequence[TaskSpec], number: int = ANCHORS, index: int = 0, channels: int = CHANNELS[0]) -> Batch:
    """A batch as the trainer makes it."""
    with torch.autocast("cpu", enabled=False):
        store = store_for(tasks, channels=channels)
        plan = _plan(store, tasks)
        return Loader(store, Sampler(plan, number, seed=0), torch.device("cpu"))(index)


def _plan(store: SliceStore, tasks: Sequence[TaskSpec]) -> Plan:
    return Plan(store.extents, [{str(task): task.companions(SPACING) for task in tasks}] * len(store.scans))


def multitask(
    tasks: Sequence[TaskSpec],
    backbone: BackboneSpec | None = None,
    balancer: BalancerSpec | None = None,
    seed: int = 0,
    channels: int = CHANNELS[0],
) -> MultiTask:
    """All modules, from this seed."""
    torch.manual_seed(seed)
    balancer = balancer or registry().resolve(BalancerSpec, "fixed")
    return MultiTask.build(backbone or Small(), tasks, balancer, channels)


def train(
    folder: Path,
    steps: int,
    tasks: Sequence[TaskSpec],
    backbone: BackboneSpec | None = None,
    balancer: BalancerSpec | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Train by the real trainer, going on where `folder` holds a run, and return all that its last checkpoint holds."""
    chosen = {"size": SIZE, "batch_size": 4, "checkpoint_every": 1, "log_every": 1, "accelerator": "cpu"}
    config = ResolvedRun(
        data=Nowhere(),
        backbone=backbone or Small(),
        tasks=tuple(tasks),
        balancer=balancer or registry().resolve(BalancerSpec, "fixed"),
        augment=(),
        head=None,
        probe=None,
        steps=steps,
        **{**chosen, "precision": "32", **options},
    )
    resume = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    fabric = make_fabric(config, Progress(), config.devices)
    store = store_for(tasks, config.size)
    plan = make_plan(store, tasks, Progress())
    fabric.launch()
    trainer = Trainer(fabric, config, store, plan, folder, Progress())
    trainer.start(resume)
    trainer.run(time.perf_counter())
    saved = checkpoint.newest(folder / CHECKPOINTS, lambda text: None)
    if saved is None or saved.step != steps:
        fail(f"no checkpoint of step {steps} was written")
    # buffers of all processes but the first are overwritten at each step
    return saved.tensors if fabric.world_size == 1 else dict(trainer.model.named_parameters())


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal bit for bit."""
    return sorted(
        k for k in {*first, *second} if k not in first or k not in second or not torch.equal(first[k], second[k])
    )


def step(backbone: Backbone, anchor: Tensor, position: Position | None = None, **companions: Companion) -> Step:
    """What a task sees of one training step with these anchors (N, C, H, W) and companions, to unit-test its module.

    Without a `position` the anchors are the slices of one scan, in order and 1 mm apart.
    """
    return Step(Batch(anchor, {}, position), SharedEncoder(backbone), companions)
