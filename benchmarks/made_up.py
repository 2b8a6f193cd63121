"""Stores of random slices, trainers and scans, for benchmarks without data; and the memory that a process holds."""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.store import SliceStore, StoredScan
from ssmtl_toolkit.pretraining.pretrain import make_plan
from ssmtl_toolkit.pretraining.trainer import Trainer
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import Scan


def random_store(scans: int = 20, slices: int = 40, size: int = 64) -> SliceStore:
    """Make `scans` scans of `slices` slices of noise."""
    noise = torch.randn(scans * slices, 1, size, size, generator=torch.Generator().manual_seed(0)).half()
    names = [f"scan_{i}" for i in range(scans)]
    stored = (
        StoredScan(Scan(Path(n), n, n), n, (n,), i * slices, slices, 3.0, "axial", 0, ()) for i, n in enumerate(names)
    )
    return SliceStore(noise, tuple(stored), ())


def trainer(
    backbone: str, tasks: tuple[str, ...], size: int, batch: int, store: SliceStore | None = None, **more: object
) -> Trainer:
    """A training that has not begun, on random slices or a store."""
    options = {"backbone": backbone, "tasks": tasks, "size": size, "batch_size": batch, "steps": 10**6, **more}
    config = RunConfig.of(options).resolve()
    progress = Progress()
    store = store or random_store(scans=2, slices=200, size=size)
    fabric = make_fabric(config, progress)
    fabric.launch()
    plan = make_plan(store, config.tasks, progress)
    return Trainer(fabric, config, store, plan, Path(tempfile.mkdtemp()), progress)


def write_scans(folder: Path, number: int, shape: tuple[int, int, int], suffix: str = ".nii.gz") -> list[Scan]:
    """Write int16 scans of smooth noise, as well compressible as scans are, and list them."""
    folder.mkdir(parents=True, exist_ok=True)
    scans = []
    for i in range(number):
        rng = np.random.default_rng(i)
        coarse = rng.normal(300, 200, [-(-n // 8) for n in shape])
        for axis in range(3):
            coarse = np.repeat(coarse, 8, axis=axis)
        voxels = coarse[tuple(slice(n) for n in shape)] + rng.normal(0, 8, shape)
        file = folder / f"scan_{i:05d}{suffix}"
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([0.8, 0.8, 2.0, 1.0])), file)  # type: ignore[no-untyped-call]
        scans.append(Scan(file, file.name.removesuffix(suffix), file.name.removesuffix(suffix)))
    return scans


def held(kind: str) -> float:
    """MB that this process holds: VmRSS now, VmHWM at most so far, RssAnon of it not of files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))
