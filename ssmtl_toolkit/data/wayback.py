"""From maps of prepared slices to maps on the grid that the slices were cut from, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.lattice import Lattice, Line

Part = tuple[slice, Tensor]
"""Some slices: which they are, and their maps (n, K, height, width)."""


class WayBack:
    """Brings maps back by linear interpolation; where a pixel lay on a voxel its value is kept to the bit."""

    def __init__(self, lattice: Lattice | None) -> None:
        """`lattice` says where the pixels of prepared slices lie on the grid; None: at its voxels."""
        self._back = None if lattice is None else lattice.inverse

    def each(self, parts: Iterable[Part], outside: Tensor) -> Iterator[Part]:
        """Yield the maps on the grid, for all of its slices in order.

        Args:
            parts: maps of the prepared slices, all of them in order.
            outside: (K,), the maps where nothing is seen.
        """
        if self._back is None:
            yield from parts
            return
        _, rows, columns = self._back.lines
        hidden = torch.from_numpy(~(rows.seen[:, None] & columns.seen))
        for place, maps in _across(parts, self._back.slices):
            maps = _between(_between(maps, rows, 2), columns, 3)
            shown = outside.to(maps)[:, None, None]
            maps = torch.where(hidden.to(maps.device), shown, maps) if hidden.any() else maps
            maps[torch.from_numpy(~self._back.slices.seen[place])] = shown
            yield place, maps


def _across(parts: Iterable[Part], line: Line) -> Iterator[Part]:
    """Bring maps to the slices that `line` samples; each depends on two of the prepared ones, at most."""
    before, behind, share = line.between
    first, done, held = 0, 0, torch.empty(0)
    for _, maps in parts:
        held = torch.cat([held, maps]) if len(held) else maps
        ready = int(np.searchsorted(behind, first + len(held)))
        for start in range(done, ready, len(maps)):  # no more at once than come at once
            rows = slice(start, min(start + len(maps), ready))
            yield rows, _mixed(held, 0, before[rows] - first, behind[rows] - first, share[rows])
        done = max(done, ready)
        unused = min(int(before[done]) - first, len(held)) if done < len(before) else len(held)
        held, first = held[unused:], first + unused


def _between(maps: Tensor, line: Line, axis: int) -> Tensor:
    """Maps at the samples of a line along one axis, interpolated linearly."""
    return maps if line == Line.of(line.voxels) else _mixed(maps, axis, *line.between)


def _mixed(
    maps: Tensor, axis: int, before: NDArray[np.int64], behind: NDArray[np.int64], share: NDArray[np.float32]
) -> Tensor:
    first = maps.index_select(axis, torch.from_numpy(before).to(maps.device))
    if not share.any():
        return first
    second = maps.index_select(axis, torch.from_numpy(behind).to(maps.device))
    shape = [-1 if i == axis else 1 for i in range(maps.ndim)]
    return torch.lerp(first, second, torch.from_numpy(share).to(maps).view(shape))
