"""The cost of the cache's checksums: opening a store from the cache, compared with version 0.1.

python benchmarks/open_store.py            # 40 scans of 100 slices, 256 x 256: 0.5 GB
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ssmtl_toolkit.data import store as storing
from ssmtl_toolkit.data.files import Waiting
from ssmtl_toolkit.data.pieces import Piece
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.store import SliceStore, build_store
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import Scan

SCANS, SLICES, SIZE, ROUNDS = 40, 100, 256, 15


def main() -> None:
    """Open the same store both ways in turn, and print medians and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        scans = [_write(Path(folder) / f"{i}.nii", i) for i in range(SCANS)]

        def ram() -> SliceStore:
            return build_store(scans, installed_readers(), Slicing(size=SIZE), Path(folder) / "cache", placement="ram")

        def disk() -> SliceStore:
            return build_store(scans, installed_readers(), Slicing(size=SIZE), Path(folder) / "cache", placement="disk")

        ram(), disk()
        _compare("in memory", ram, mock.patch.object(storing, "_loaded", _unchecked))
        _compare(
            "mapped from disk",
            disk,
            mock.patch.object(storing, "_checked", return_value=f"{2 * SCANS * SLICES * SIZE * SIZE} bytes, whole"),
        )


def _compare(name: str, act: Callable[[], SliceStore], unchecked: mock._patch[object]) -> None:
    times: dict[str, list[float]] = {"checked": [], "unchecked": []}
    for _ in range(ROUNDS):
        times["checked"].append(_timed(act))
        with unchecked:
            times["unchecked"].append(_timed(act))
    with_sums, without = (statistics.median(times[key]) for key in ("checked", "unchecked"))
    ratios = sorted(a / b for a, b in zip(times["checked"], times["unchecked"], strict=True))
    print(
        f"{name}: {1000 * with_sums:.0f} ms checked, {1000 * without:.0f} ms unchecked; ratio median "
        f"{statistics.median(ratios):.3f} ({ratios[1]:.3f} to {ratios[-2]:.3f})"
    )


def _timed(act: Callable[[], SliceStore]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _unchecked(found: Sequence[Piece], shape: tuple[int, int, int], _: Waiting) -> Tensor:
    """Load as version 0.1 did: piece by piece, without checksums."""
    slices, start = np.empty(shape, dtype=np.float16), 0
    for piece in found:
        with safe_open(piece.file, "numpy") as opened:
            slices[start : start + piece.about.count] = opened.get_tensor("slices")
        start += piece.about.count
    return torch.from_numpy(slices)


def _write(file: Path, seed: int) -> Scan:
    voxels = np.random.default_rng(seed).integers(0, 1000, (64, 64, SLICES), dtype=np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), file)  # type: ignore[no-untyped-call]
    return Scan(file, file.stem, file.stem)


if __name__ == "__main__":
    main()
