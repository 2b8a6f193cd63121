"""How much longer `predict` takes per slice than the bare forward pass of the same network on tensors in memory.

    python benchmarks/predict_overhead.py [ROUNDS]

Four figures: the network alone; a scan in memory to labels on its grid (cut, resize, normalise, network, resize back,
argmax, reorient); the same by five models together; a .nii.gz file to a .nii.gz file. All take turns in one process;
the figures are medians of ratios.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.downstream.model import ModelSpec, Predictor
from ssmtl_toolkit.downstream.predict import predict
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec

NETWORK, SIZE, SHAPE, BATCH = "unet:encoder=resnet18", 128, (192, 192, 48), 16


def main(rounds: int) -> None:
    folder = Path(tempfile.mkdtemp())
    scan = folder / "scan.nii.gz"
    voxels = np.random.default_rng(0).normal(500, 100, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-1, -1, 2, 1])), scan)
    model_spec = ModelSpec(
        registry().resolve(BackboneSpec, NETWORK),
        registry().resolve(HeadSpec, "segmentation"),
        Slicing(size=SIZE),
        Classes.of_values([1, 2, 3, 4]),
        channels=1,
    )
    model = model_spec.build()
    model_spec.save(folder / "model.safetensors", model, {})
    fabric = make_fabric(RunConfig(accelerator="cpu"), Progress())
    predictor = Predictor(model_spec, [model], fabric, BATCH)
    ensemble = Predictor(model_spec, [model, *(model_spec.build() for _ in range(4))], fabric, BATCH)
    volume = installed_readers().read(scan)
    ready = torch.randn(SHAPE[2], 1, SIZE, SIZE).split(BATCH)

    def bare() -> None:
        with torch.inference_mode():
            for batch in ready:
                model(batch)

    def labels() -> None:
        predictor.labels(volume)

    def five() -> None:
        ensemble.labels(volume)

    def files() -> None:
        predict(folder / "model.safetensors", scan, out=folder / "out", existing="overwrite", accelerator="cpu")

    ways: dict[str, Callable[[], None]] = {
        "network alone": bare,
        "scan to labels": labels,
        "by 5 models": five,
        "file to file": files,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(1000 * (time.perf_counter() - start) / SHAPE[2])
    print(f"{NETWORK}, {SHAPE[0]} x {SHAPE[1]} pixels seen as {SIZE} x {SIZE}, {SHAPE[2]} slices, batch {BATCH}")
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, times["network alone"], strict=True)]
        low, high = min(ratios), max(ratios)
        print(
            f"{name:15} {statistics.median(found):6.2f} ms a slice, {statistics.median(ratios):.3f} times the network"
            f" ({low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
