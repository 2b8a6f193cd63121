"""From the number of a batch to its images on the device: one draw, one gather."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.sampling import FixedSample, Rows, Sampler
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.step import Batch, Companion, Position


class Loader:
    """Makes batch `index` of this rank. Holds no state; any batch can be asked for at any time.

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

    def __call__(self, index: int) -> Batch:
        batch = self.plain(index)
        return self.augmenter.unlabelled(batch) if self.augmenter else batch

    def plain(self, index: int) -> Batch:
        """The same before augmentation."""
        draw = self.sampler.draw(index)
        sizes = [len(draw.anchors), *(len(rows) for rows, _ in draw.companions)]
        rows = np.concatenate([draw.anchors, *(rows for rows, _ in draw.companions)])
        places = self.store.places(len(draw.anchors))
        if places is not None:  # companions show the same place as their anchor
            places = torch.cat([places, *(places[torch.from_numpy(has)] for _, has in draw.companions)])
        anchor, *images = self.store.gather(torch.from_numpy(rows), self.device, places).split(sizes)
        companions = [
            self._companion(image, rows - draw.anchors[has], None if len(has) == len(anchor) else has)
            for image, (rows, has) in zip(images, draw.companions, strict=True)
        ]
        named = {
            label: {name: companions[column] for name, column in names.items()}
            for label, names in self.sampler.plan.columns.items()
        }
        seed = step_seed(self.sampler.seed, index)
        return Batch(anchor, named, self._position(draw.anchors), seed, first=index % self.accumulate == 0)

    def _position(self, anchors: Rows) -> Position:
        places = self.sampler.plan.places(anchors)
        return Position(
            index=self._sent(places.index),
            count=self._sent(places.count),
            spacing=self._sent(places.spacing),
            patient=self._sent(places.patient),
        )

    def _companion(self, image: Tensor, offsets: Rows, has: Rows | None) -> Companion:
        return Companion(image, self._sent(offsets), None if has is None else self._sent(has))

    def _sent(self, numbers: NDArray[Any]) -> Tensor:
        """These numbers on the device; a GPU is sent them without waiting for what it does."""
        column = torch.from_numpy(numbers)
        if self.device.type == "cuda":
            column = column.pin_memory()
        return column.to(self.device, non_blocking=True)
