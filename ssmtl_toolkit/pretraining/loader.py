"""From the number of a batch to its images on the device: one draw, one gather, one transfer of numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.on_disk import OnDisk
from ssmtl_toolkit.data.sampling import Draw, FixedSample, Sampler
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.data.sending import sent_together
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.step import Batch, Companion, Position
from ssmtl_toolkit.pretraining.ahead import Ahead


class Drawn(NamedTuple):
    """The rows of a batch: drawn, all in one (anchors, then those of each companion), and their slices if on disk."""

    draw: Draw
    rows: Tensor
    read: Tensor | None


class Loader:
    """Makes batch `index` of this rank. Any batch can be asked for at any time, and is always the same.

    Where the slices are on disk, those of the next batch are read by a thread meanwhile.

    Augmentations draw from torch's global generator, which is seeded for each batch by whoever asks for it.
    """

    def __init__(
        self,
        store: SliceStore,
        sampler: Sampler | FixedSample,
        device: torch.device,
        accumulate: int = 1,
        augmenter: Augmenter | None = None,
    ) -> None:
        self.store, self.sampler, self.device, self.accumulate = store, sampler, device, accumulate
        self.augmenter = augmenter
        ahead = isinstance(store.slices, OnDisk) and isinstance(sampler, Sampler)
        self._drawn = Ahead(self._draw) if ahead else self._draw

    def __call__(self, index: int) -> Batch:
        batch = self.plain(index)
        return self.augmenter.unlabelled(batch) if self.augmenter else batch

    def plain(self, index: int) -> Batch:
        """The same before augmentation."""
        draw, rows, read = self._drawn(index)
        sizes = [len(draw.anchors), *(len(own) for own, _ in draw.companions)]
        places = self.store.places(len(draw.anchors))
        if places is not None:  # companions show the same place as their anchor
            places = torch.cat([places, *(places[torch.from_numpy(has)] for _, has in draw.companions)])
        position, companions, sent_rows = self._numbers(draw, rows)
        if places is None and self.store.slices.device == self.device:
            rows = sent_rows
        anchor, *images = self.store.gather(rows, self.device, places, read).split(sizes)
        made = [Companion(image, *numbers) for image, numbers in zip(images, companions, strict=True)]
        named = {
            label: {name: made[column] for name, column in names.items()}
            for label, names in self.sampler.plan.columns.items()
        }
        seed = step_seed(self.sampler.seed, index)
        return Batch(anchor, named, position, seed, first=index % self.accumulate == 0)

    def _draw(self, index: int) -> Drawn:
        draw = self.sampler.draw(index)
        rows = torch.from_numpy(np.concatenate([draw.anchors, *(own for own, _ in draw.companions)]))
        slices = self.store.slices
        if not isinstance(slices, OnDisk):
            return Drawn(draw, rows, None)
        if isinstance(self.sampler, Sampler) and self.sampler.blocks:
            slices.announce(rows)
        read = slices.index_select(0, rows)
        return Drawn(draw, rows, read if self.device.type != "cuda" or self.store.patches else read.pin_memory())

    def _numbers(self, draw: Draw, rows: Tensor) -> tuple[Position, list[tuple[Tensor, Tensor | None]], Tensor]:
        """On the device: where the anchors lie, offsets and anchors of each companion, and all rows."""
        places = self.sampler.plan.places(draw.anchors)
        offsets = [own - draw.anchors[has] for own, has in draw.companions]
        columns: list[NDArray[Any]] = [places.index, places.count, places.spacing, places.patient]
        columns += [*offsets, *(has for _, has in draw.companions), rows.numpy()]
        *numbers, all_rows = sent_together(columns, self.device)
        number = len(offsets)
        has = [one if len(one) < len(draw.anchors) else None for one in numbers[4 + number :]]
        return Position(*numbers[:4]), list(zip(numbers[4 : 4 + number], has, strict=True)), all_rows
