"""How much longer `predict` takes than the bare forward pass of the same network on tensors in memory.

    python benchmarks/predict.py [--rounds N] [--json] [--only WORD] [--quick]

A scan in memory to labels on its grid (cut, resize, normalise, network, resize back, argmax, reorient), the same by
five models together, and a .nii.gz file to a .nii.gz file, with the time to load the model; several files, of which the
next is read and the last one written meanwhile. Each has a process of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from made_up import write_scans
from timing import Act, Group, Ratio, Way, main

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.downstream.model import Downstream, ModelSpec, Predictor
from ssmtl_toolkit.downstream.predict import predict
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.allocator import keep_memory
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec
from ssmtl_toolkit.text import counted

NETWORK, BATCH = "unet:encoder=resnet18", 16
Shape = tuple[int, int, int]
BARE, SAME = "the network alone", "the network alone with our allocator settings"


def spec_of(size: int, classes: int) -> ModelSpec:
    backbone, head = registry().resolve(BackboneSpec, NETWORK), registry().resolve(HeadSpec, "segmentation")
    return ModelSpec(backbone, head, Slicing(size=size), Classes.of_values(range(1, classes)), channels=1)


def network(size: int, classes: int) -> Downstream:
    torch.manual_seed(0)
    return spec_of(size, classes).build().eval()


def bare(size: int, classes: int, shape: Shape, kept: bool) -> Act:
    if kept:
        keep_memory(torch.device("cpu"))
    model, ready = network(size, classes), torch.randn(shape[2], 1, size, size).split(BATCH)

    def forward() -> None:
        with torch.inference_mode():
            for batch in ready:
                model(batch)

    return forward


def labels(size: int, classes: int, shape: Shape, models: int) -> Act:
    (scan,) = write_scans(Path(tempfile.mkdtemp()), 1, shape)
    volume, fabric = installed_readers().read(scan.path), make_fabric(RunConfig(accelerator="cpu"), Progress())
    members = [network(size, classes) for _ in range(models)]
    predictor = Predictor(spec_of(size, classes), members, fabric, BATCH)
    return lambda: predictor.labels(volume)


def files(size: int, classes: int, shape: Shape, scans: int) -> Act:
    folder = Path(tempfile.mkdtemp())
    write_scans(folder / "scans", scans, shape)
    model, options = folder / "model.safetensors", {"out": folder / "out", "cache": folder / "cache"}
    spec_of(size, classes).save(model, network(size, classes), {})
    return lambda: predict(model, folder / "scans", **options, existing="overwrite", accelerator="cpu")


def rows(quick: bool) -> Iterator[Group]:
    size, shape = (32, (40, 40, 4)) if quick else (128, (192, 192, 48))
    for classes, target in ((5, "≤ 1.05"),) if quick else ((5, "≤ 1.05"), (40, "≤ 1.15")):
        ways = {
            "file to file": Way(files, (size, classes, shape, 1), apart=True),
            "scan to labels": Way(labels, (size, classes, shape, 1), apart=True),
            BARE: Way(bare, (size, classes, shape, False), apart=True),
            SAME: Way(bare, (size, classes, shape, True), apart=True),
        }
        ratios = [Ratio("file to file", BARE, target), Ratio("file to file", SAME), Ratio("scan to labels", SAME)]
        title = f"predict, {NETWORK}, {size} px of {shape[0]} px, {shape[2]} slices, {classes} classes"
        yield Group(title, ways, ratios, rounds=5)
    if not quick:
        number, few = 4, (*shape[:2], 24)
        together = (*shape[:2], number * few[2])
        ways = {
            "files to files": Way(files, (size, 5, few, number), apart=True),
            SAME: Way(bare, (size, 5, together, True), apart=True),
        }
        title = f"predict, {NETWORK}, {size} px of {shape[0]} px, {number} scans of {few[2]} slices, 5 classes"
        yield Group(title, ways, [Ratio("files to files", SAME)], rounds=5)
        few = (*shape[:2], 8)
        ways = {f"by {counted(n, 'model')}": Way(labels, (size, 5, few, n), apart=True) for n in (5, 1)}
        yield Group(f"predict, {few[2]} slices", ways, [Ratio("by 5 models", "by 1 model")], rounds=5)


if __name__ == "__main__":
    main(__doc__, rows)
