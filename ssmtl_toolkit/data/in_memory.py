"""The slices of all scans behind each other in one tensor in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.files import Waiting
from ssmtl_toolkit.data.pieces import Piece

_MOST_WORKERS = 8

Shape = tuple[int, int, int, int]
"""Slices, channels, rows, columns."""


def bytes_of(shape: Shape) -> int:
    """How many bytes the slices take, as float16."""
    return 2 * math.prod(shape)


def in_memory(pieces: Sequence[Piece], shape: Shape, waiting: Waiting) -> Tensor:
    """Put the slices of all pieces behind each other in memory.

    Raises:
        DataError: as `Piece.slices`.
    """
    slices = np.empty(shape, dtype=np.float16)
    ends = np.cumsum([piece.about.count for piece in pieces])

    def load(piece: Piece, end: int) -> None:
        slices[end - piece.about.count : end] = _padded(piece.slices(waiting), shape)

    with ThreadPoolExecutor(max_workers=workers()) as pool:  # reading, checksums and copies leave the others running
        for done in [pool.submit(load, *one) for one in zip(pieces, ends.tolist(), strict=True)]:
            done.result()
    return torch.from_numpy(slices)


def _padded(slices: NDArray[np.float16], shape: Shape) -> NDArray[np.float16]:
    """Slices (count, C, h, w) with zeros at their ends up to (…, H, W); no patch shows them."""
    missing = [have - wanted for have, wanted in zip(shape[2:], slices.shape[2:], strict=True)]
    return np.pad(slices, [(0, 0), (0, 0), *((0, n) for n in missing)]) if any(missing) else slices


def workers() -> int:
    """How many scans to read at once: each takes a core, and the memory of a whole volume."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)
