"""A store of random slices, for benchmarks of the training loop without data."""

from pathlib import Path

import torch

from ssmtl_toolkit.data.store import SliceStore, StoredScan
from ssmtl_toolkit.specs import Scan


def random_store(scans: int = 20, slices: int = 40, size: int = 64) -> SliceStore:
    """Make `scans` scans of `slices` slices of noise."""
    noise = torch.randn(scans * slices, 1, size, size, generator=torch.Generator().manual_seed(0)).half()
    names = [f"scan_{i}" for i in range(scans)]
    stored = (
        StoredScan(Scan(Path(n), n, n), n, (n,), i * slices, slices, 3.0, "axial", 0, ()) for i, n in enumerate(names)
    )
    return SliceStore(noise, tuple(stored), ())
