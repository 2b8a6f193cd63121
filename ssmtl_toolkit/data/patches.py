"""Patches of slices that are larger than the network's input: at random places, or all that cover a slice, blended."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from ssmtl_toolkit.data.on_disk import OnDisk

_OVERLAP = 0.5  # of neighbouring windows
_WIDTH = 1 / 8  # standard deviation of a window's weights, as a share of its size
_LEAST = 1e-3  # of the largest weight


@dataclass(frozen=True)
class Patches:
    """Where patches of the slices of a store may lie.

    Attributes:
        size: rows and columns of a patch.
        sides: (total, 2), rows and columns of each slice; what the store holds beyond them is padding.
    """

    size: int
    sides: Tensor

    def of(self, rows: Tensor) -> Patches:
        """Where patches of these slices alone may lie."""
        return replace(self, sides=self.sides[rows])

    def cut(self, slices: Tensor | OnDisk, rows: Tensor, places: Tensor | None = None) -> Tensor:
        """Cut a patch out of each of the slices `rows` (N,) of (total, …, H, W).

        `places` (N, 2) say where, from 0, the first rows and columns, to 1, the last ones; None: the middle.
        """
        corners = self._corners(rows, places).tolist()
        if not corners:
            return slices[:0][..., : self.size, : self.size]
        parts = (
            slices[row][..., top : top + self.size, left : left + self.size]
            for row, (top, left) in zip(rows.tolist(), corners, strict=True)
        )
        return torch.stack(list(parts))

    def around(self, row: int, pixel: Tensor) -> Tensor:
        """The place (2,) of the patch of a slice in whose middle `pixel` (2,) lies, as nearly as possible."""
        room = self.sides[row] - self.size
        corner = torch.minimum((pixel - self.size // 2).clamp(min=0), room)
        return (corner + 0.5) / (room + 1)

    def _corners(self, rows: Tensor, places: Tensor | None) -> Tensor:
        room = self.sides[rows] - self.size
        if places is None:
            return room // 2
        return torch.minimum((places * (room + 1)).floor().long(), room)


def middle(slices: NDArray[Any], size: int) -> NDArray[Any]:
    """The patch in the middle of each of slices (…, h, w), as `Patches.cut` takes it."""
    top, left = ((side - size) // 2 for side in slices.shape[-2:])
    return slices[..., top : top + size, left : left + size]


def covered(image: Tensor, size: int, apply: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a network to windows that cover images (n, C, h, w), and blend its maps (n, K, h, w).

    Windows overlap by at least half. Where several show a pixel it is their mean, weighted by a Gaussian about the
    middle of each, as in nnU-Net (Isensee et al., Nature Methods 2021).
    """
    weights = _weights(size).to(image.device)
    total, shares = torch.empty(0), torch.zeros(image.shape[2:], device=image.device)
    for top, left in _windows(image.shape[2], image.shape[3], size):
        place = (..., slice(top, top + size), slice(left, left + size))
        maps = apply(image[place])
        if not len(total):
            total = maps.new_zeros((*maps.shape[:2], *image.shape[2:]))
        total[place] += maps * weights
        shares[place] += weights
    return total / shares


def _windows(height: int, width: int, size: int) -> Iterator[tuple[int, int]]:
    yield from itertools.product(_starts(height, size), _starts(width, size))


def _starts(length: int, size: int) -> list[int]:
    """Where windows begin, evenly spread from end to end.

    >>> _starts(100, 40), _starts(40, 40), _starts(41, 40)
    ([0, 20, 40, 60], [0], [0, 1])
    """
    steps = math.ceil((length - size) / (size * (1 - _OVERLAP)))
    return [round(i * (length - size) / max(steps, 1)) for i in range(steps + 1)]


@functools.cache
def _weights(size: int) -> Tensor:
    at = (torch.arange(size) - (size - 1) / 2) / (size * _WIDTH)
    line = torch.exp(-0.5 * at**2)
    weights = line[:, None] * line
    return (weights / weights.max()).clamp(min=_LEAST)
