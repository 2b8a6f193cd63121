"""The cheap scores of a pre-training: a look at its network before the first step, and one after the last."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.sampling import Sampler
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import Batch, SharedEncoder
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.experiments.affinity.gradients import cosines, flat_gradient, lookahead
from ssmtl_toolkit.experiments.affinity.rank import effective_rank
from ssmtl_toolkit.experiments.affinity.segmenting import Segmentation
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.pretraining.labelled import Labelled, LabelledGathering
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.pretraining.preflight import try_once
from ssmtl_toolkit.pretraining.pretrain import prepared
from ssmtl_toolkit.pretraining.probe import IOU, Probe, picked_pixels
from ssmtl_toolkit.pretraining.ridge import Ridge
from ssmtl_toolkit.pretraining.watch import leaving_no_trace
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.device import make_fabric, seed_all
from ssmtl_toolkit.runtime.folder import CHECKPOINTS
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import reading_of
from ssmtl_toolkit.specs import DatasetSpec

_BATCHES = 8  # of pretext slices, over which gradients and losses are means
_PIXELS = 64  # of each slice, for the effective rank

Look = dict[str, Any]
"""`probe`, `cosine`, `lookahead`, `rank`; and `cosines`, `lookaheads`: matrices of the tasks and the segmentation."""


@dataclass(frozen=True)
class Labels:
    """The labels that scores may see.

    Attributes:
        data: the scans of training patients, with their labels.
        slices: how many to fit on; as many of other patients are scored.
        seed: by which patients are parted and slices drawn; equal for all pre-trainings.
    """

    data: DatasetSpec
    classes: Classes
    ignore_affine: bool
    slices: int
    seed: int

    def gather(self, config: ResolvedRun, channels: int, reading: Reading) -> Labelled:
        """Read them as slices like those of this pre-training."""
        changes = {"probe": self.data, "without": None, "probe_slices": self.slices, "seed": self.seed}
        config = config.model_copy(update=changes)
        return LabelledGathering(config, channels, reading, Progress(), self.classes, self.ignore_affine).run()


class Looker:
    """Looks at the network of a pre-training, built as its training built it."""

    def __init__(self, config: ResolvedRun, labels: Labels, cache: Path) -> None:
        self.fabric = make_fabric(config, Progress())
        reading = reading_of(config.slicing, cache, Progress())
        self.config, store, plan, _ = prepared(config, reading, Progress())
        seed_all(config.seed, self.fabric.device)
        self.model = MultiTask.build(config.backbone, config.tasks, config.balancer, store.channels)
        try_once(self.model, self.config)
        self.model.to(self.fabric.device)
        blocks = config.read_order == "blocks"
        sampler = Sampler(plan, config.batch_size, config.seed, patients=config.patients_per_batch, blocks=blocks)
        self.load = Loader(store, sampler, self.fabric.device, augmenter=Augmenter(config.augment))
        labelled = labels.gather(self.config, store.channels, reading)
        whole = self.config.model_copy(
            update={"batch_size": labels.slices}
        )  # statistics of a batch are those of a half
        self.probe = Probe(self.fabric, whole, self.model.backbone, labelled, 1)
        self.parameters = [p for p in self.model.backbone.parameters() if p.requires_grad]
        self.floors = [task.floor for task in config.tasks]

    def restore(self, run: Path) -> int:
        """Take the weights of the newest checkpoint of this run; return its step.

        Raises:
            DataError: there is none that can be used.
        """
        newest = checkpoint.newest(run / CHECKPOINTS, lambda text: None)
        if newest is None:
            raise DataError(f"{run}: has no checkpoint; remove it, and rerun the command to pre-train again")
        checkpoint.restore_model(newest, self.model)
        return newest.step

    def look(self, step: int) -> Look:
        """All scores of the network as it is; pretext losses are those of the batches that follow `step`."""
        probed = self.probe.measure()
        with leaving_no_trace(self.model), torch.no_grad():
            self.model.eval()
            rank = self._rank()
        with self._training(), torch.no_grad():
            fits = self.probe.fits()
        if fits is None or not probed:
            return {}
        batches = range(step * self.config.accumulate, step * self.config.accumulate + _BATCHES)
        return {"probe": probed[IOU], "rank": rank, **self._gradients(fits, batches)}

    def _rank(self) -> float:
        halves = self.probe.labelled.halves
        pixels = []
        for i, half in enumerate(halves):
            alike = np.zeros(half.labels.shape, np.uint8)  # any pixel: labels do not count
            seed = step_seed(self.config.seed, Stream.PROBE, len(halves) + i)
            pixels.append(self.probe.pixels(half, picked_pixels(alike, _PIXELS, seed)))
        return effective_rank(torch.cat(pixels))

    def _gradients(self, fits: list[Ridge], batches: range) -> Look:
        """Cosines and lookahead, of the mix, of each task, and of the segmentation."""
        segmentation = Segmentation(self.probe, fits)
        pretext = self._pretext_gradients(batches)
        gradients = torch.cat([pretext, self._segmentation_gradient(segmentation)[None]])

        def losses() -> Tensor:
            return torch.cat([self._pretext_losses(batches), self._segmentation_loss(segmentation)[None]])

        angles, gains = cosines(gradients), lookahead(losses, self.parameters, gradients)
        return {
            "cosine": _number(angles[0, -1]),
            "lookahead": _number(gains[0, -1]),
            "cosines": [[_number(value) for value in row[1:]] for row in angles[1:]],
            "lookaheads": [[_number(value) for value in row] for row in gains[1:]],
        }

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        """Compute as training does, by the statistics of the batch, and with the same draws each time."""
        with leaving_no_trace(self.model):
            self.model.train()
            seed_all(step_seed(self.config.seed, Stream.PROBE), self.fabric.device)
            yield

    def _pretext_gradients(self, batches: range) -> Tensor:
        """Gradients of what the training descends and of each task's own loss, (1 + T, P), means over batches."""
        rows = []
        with self._training():
            for index in batches:
                with self.fabric.autocast():
                    total, outputs = self.model(self._batch(index))
                losses = [total, *(output.loss for output in outputs.values())]
                rows.append(torch.stack([flat_gradient(loss, self.parameters) for loss in losses]))
        return torch.stack(rows).mean(dim=0)

    @torch.no_grad()
    def _pretext_losses(self, batches: range) -> Tensor:
        """Each task's loss above what it cannot get below, (T,), means over the same batches and draws."""
        rows = []
        with self._training():
            for index in batches:
                with self.fabric.autocast():
                    outputs = self.model.outputs(self._batch(index), SharedEncoder(self.model.backbone))
                losses = [output.loss.float() for output in outputs.values()]
                rows.append(torch.stack(losses) - torch.tensor(self.floors, device=losses[0].device))
        return torch.stack(rows).mean(dim=0)

    def _batch(self, index: int) -> Batch:
        seed_all(step_seed(self.config.seed, index), self.fabric.device)
        batch = self.load(index)
        batch.first = False  # no weights were updated
        return batch

    def _segmentation_gradient(self, segmentation: Segmentation) -> Tensor:
        with self._training():
            parts = [flat_gradient(loss, self.parameters) for loss in segmentation.losses()]
        return torch.stack(parts).sum(dim=0)

    @torch.no_grad()
    def _segmentation_loss(self, segmentation: Segmentation) -> Tensor:
        with self._training():
            return torch.stack(list(segmentation.losses())).sum()


def looks_at(run: Path, config: ResolvedRun, labels: Labels, cache: Path) -> dict[str, Look]:
    """Look at a pre-training at its `start` and its `end`; {} of a look where features are not finite."""
    with foreign("a look at it for cheap scores"):
        looker = Looker(config, labels, cache)
        start = looker.look(0)
        return {"start": start, "end": looker.look(looker.restore(run))}


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
