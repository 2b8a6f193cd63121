"""The slices of all scans behind each other in one tensor: in memory, or in one file that is mapped."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.files import DigestMemo, Waiting, atomic_write, holding, remove_halves
from ssmtl_toolkit.data.pieces import Piece
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.text import printable

_MOST_WORKERS = 8
_BLOCK = 1 << 24

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


def mapped(pieces: Sequence[Piece], shape: Shape, cache: Path, memo: DigestMemo, waiting: Waiting) -> Tensor:
    """Put the slices of all pieces behind each other in one file, once, and map it into memory.

    Raises:
        DataError: as `Piece.slices`.
        SsmtlError: the cache cannot be written.
    """
    key = hashlib.sha256("\n".join(piece.key for piece in pieces).encode()).hexdigest()
    pack = cache / "packs" / f"{key}.f16"
    size = bytes_of(shape)

    def whole() -> bool:
        return pack.exists() and memo(pack, _checked) == f"{size} bytes, whole"

    with writable(pack, "choose another --cache", "the cache "):
        if not whole():
            pack.parent.mkdir(parents=True, exist_ok=True)
            with holding(Path(f"{pack}.lock"), waiting):
                if not whole():  # no other process has made it meanwhile
                    if pack.exists():
                        waiting.note(f"{printable(pack)}: is damaged, and made anew")
                    remove_halves(pack.parent, f".{pack.name}.*-*.part")
                    _write_pack(pack, pieces, shape, waiting)
    memo.save()
    return torch.from_file(str(pack), shared=False, size=size // 2, dtype=torch.float16).reshape(shape)


def _write_pack(pack: Path, pieces: Sequence[Piece], shape: Shape, waiting: Waiting) -> None:
    """Write the slices, then a checksum of them and of the pack's name: exchanged packs are noticed."""
    total = xxhash.xxh3_128(pack.name.encode())
    with (
        atomic_write(pack, "choose another --cache", "the cache ") as temporary,
        temporary.open("wb") as file,
    ):  # plain writes: a full disk is an error
        for piece in pieces:
            data = np.ascontiguousarray(_padded(piece.slices(waiting), shape)).data.cast("B")
            total.update(data)
            file.write(data)
        file.write(total.digest())


def _checked(pack: Path) -> str:
    """Read a pack once, and tell its size and whether its checksum fits."""
    total = xxhash.xxh3_128(pack.name.encode())
    size = max(0, pack.stat().st_size - total.digest_size)
    with pack.open("rb") as file:
        for start in range(0, size, _BLOCK):
            total.update(file.read(min(_BLOCK, size - start)))
        whole = file.read() == total.digest()
    return f"{size} bytes, {'whole' if whole else 'damaged'}"


def workers() -> int:
    """How many scans to read at once: each takes a core, and the memory of a whole volume."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)
