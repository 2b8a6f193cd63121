"""The slices that a fine-tuning learns from, and in which turn it sees them."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.data.sampling import in_turn
from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.data.store import SliceStore

_ON_A_CLASS = 1 / 3
MOST_TURNS = 8
"""A slice is seen at most this many times as often as the others."""


@dataclass(frozen=True)
class Examples:
    """What is trained on: slices in a store, those chosen of them, and the class indices of all (None: no labels).

    Attributes:
        turns: how often each chosen slice is seen while the others are seen once; None: all alike.
    """

    store: SliceStore
    rows: NDArray[Any]
    targets: Tensor | None
    turns: NDArray[np.int64] | None = None

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the scans' contents, the slices chosen of them, and all labels; no names, no paths."""
        total = hashlib.sha256(self.store.fingerprint.encode())
        total.update(np.ascontiguousarray(self.rows, np.int64).data)
        if self.targets is not None:
            total.update(self.targets.contiguous().numpy().data)
        return total.hexdigest()

    @functools.cached_property
    def _seen(self) -> NDArray[Any]:
        """The chosen slices, each as often as it is seen in one round."""
        return self.rows if self.turns is None else np.repeat(self.rows, self.turns)

    def drawn(self, step: int, number: int, seed: int) -> NDArray[Any]:
        """The `number` slices of the update after `step` others: round by round, each in a new order."""
        return in_turn(self._seen, step * number, number, seed)

    def batch(self, rows: NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return the images (N, C, size, size) and class indices (N, size, size); None without labels.

        If the network sees patches, these are random: of one in three the middle is a pixel of a class, if there is one
        (as in nnU-Net).
        """
        index = torch.from_numpy(rows)
        places = self._places(index)
        image = self.store.gather(index, device, places)
        if self.targets is None:
            return image, None
        return image, sent(self.store.picked(self.targets, index, places), device).long()

    def _places(self, index: Tensor) -> Tensor | None:
        places, patches = self.store.places(len(index)), self.store.patches
        if places is None or patches is None or self.targets is None:
            return places
        for i in torch.nonzero(torch.rand(len(index)) < _ON_A_CLASS)[:, 0].tolist():
            target = self.targets[index[i]]
            pixels = torch.nonzero((target > 0) & (target != IGNORE))
            if len(pixels):
                places[i] = patches.around(int(index[i]), pixels[int(torch.randint(len(pixels), ()))])
        return places


def turns_of(shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How often each slice is to be seen so that rare classes are: `shown` (slices, classes) says which it shows.

    A class that a share f of the slices shows has the factor sqrt(f of the most frequent class / f), and a slice that
    of its rarest class, rounded (repeat factor sampling; Gupta et al. 2019, arXiv:1908.03195).
    """
    number = shown.sum(axis=0)
    if not number.any():
        return np.ones(len(shown), np.int64)
    factor = np.sqrt(number.max() / np.maximum(number, 1))
    turns: NDArray[np.float64] = np.where(shown, factor, 1.0).max(axis=1)
    return turns.round().clip(1, MOST_TURNS).astype(np.int64)
