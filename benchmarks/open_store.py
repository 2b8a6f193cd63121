"""The cost of the cache's checksums: opening a store from the cache, against reading it as version 0.1 did.

python benchmarks/open_store.py [--rounds N] [--json] [--only WORD] [--quick]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal
from unittest import mock

import numpy as np
import torch
from made_up import write_scans
from safetensors import safe_open
from timing import Act, Group, Ratio, Way, main
from torch import Tensor

from ssmtl_toolkit.data import store as storing
from ssmtl_toolkit.data.files import Waiting
from ssmtl_toolkit.data.on_disk import OnDisk
from ssmtl_toolkit.data.pieces import Piece
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.store import build_store
from ssmtl_toolkit.runtime.scans import installed_readers

Placement = Literal["ram", "disk"]
Change = Callable[[int], mock._patch]


def opened(scans: int, slices: int, size: int, placement: Placement, change: Change | None) -> Act:
    folder = Path(tempfile.mkdtemp())
    written, readers = write_scans(folder / "scans", scans, (64, 64, slices), ".nii"), installed_readers()

    def store() -> None:
        build_store(written, readers, Slicing(size=size), folder / "cache", placement=placement)

    def unchecked() -> None:
        with change(2 * scans * slices * size * size):
            store()

    store()
    return unchecked if change else store


def pieces_unchecked(_: int) -> mock._patch:
    return mock.patch.object(storing, "in_memory", _unchecked)


def files_unchecked(_: int) -> mock._patch:
    return mock.patch.object(storing, "on_disk", lambda pieces, shape, *_: OnDisk(pieces, shape))


def _unchecked(found: Sequence[Piece], shape: tuple[int, ...], _: Waiting) -> Tensor:
    """Load piece by piece, without checksums."""
    slices, start = np.empty(shape, dtype=np.float16), 0
    for piece in found:
        with safe_open(piece.file, "numpy") as file:
            slices[start : start + piece.about.count] = file.get_tensor("slices").reshape(-1, *shape[1:])
        start += piece.about.count
    return torch.from_numpy(slices)


def rows(quick: bool) -> Iterator[Group]:
    store = (2, 10, 32) if quick else (20, 100, 256)
    places: dict[Placement, Change] = {"ram": pieces_unchecked, "disk": files_unchecked}
    for placement, change in places.items():
        ways = {
            "with checksums": Way(opened, (*store, placement, None)),
            "without": Way(opened, (*store, placement, change)),
        }
        yield Group(f"opening a store, {placement}", ways, [Ratio("with checksums", "without")], rounds=9)


if __name__ == "__main__":
    main(__doc__, rows)
