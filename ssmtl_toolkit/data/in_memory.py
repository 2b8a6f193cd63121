"""The slices of all scans behind each other in one tensor in memory."""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

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

    for_each(len(pieces), lambda i: load(pieces[i], int(ends[i])))  # reading and checksums leave the others running
    return torch.from_numpy(slices)


def _padded(slices: NDArray[np.float16], shape: Shape) -> NDArray[np.float16]:
    """Slices (count, C, h, w) with zeros at their ends up to (…, H, W); no patch shows them."""
    missing = [have - wanted for have, wanted in zip(shape[2:], slices.shape[2:], strict=True)]
    return np.pad(slices, [(0, 0), (0, 0), *((0, n) for n in missing)]) if any(missing) else slices


def _raised(number: int, error: BaseException | None) -> None:
    if error:
        raise error


def for_each(
    total: int, act: Callable[[int], None], done: Callable[[int, BaseException | None], None] = _raised
) -> None:
    """Call `act` with every number below `total`, in parallel; where most are done at once, threads cost little.

    `done` is called in this thread, with the number and what `act` raised; what it raises itself ends all.
    """
    waiting, finished = deque(range(total)), SimpleQueue[tuple[int, BaseException | None]]()

    def work() -> None:
        while waiting:
            with contextlib.suppress(IndexError):  # another thread has taken the last one
                number = waiting.popleft()
                finished.put((number, _tried(act, number)))

    with ThreadPoolExecutor(max_workers=workers()) as pool:
        for _ in range(workers()):
            pool.submit(work)
        try:
            for _ in range(total):
                done(*finished.get())
        except BaseException:
            waiting.clear()
            raise


def _tried(act: Callable[[int], None], number: int) -> BaseException | None:
    try:
        act(number)
    except BaseException as error:
        return error
    return None


def workers() -> int:
    """How many scans to read at once: each takes a core, and the memory of a whole volume."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)
