"""What is fuzzed: each text, small file and scan that commands read, by the functions that they read it with."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from helpers import dicom_files, label_files
from helpers.fuzzing import Target, as_bytes, as_json, as_lines, as_toml, choose, text
from ssmtl_toolkit.config import EvaluateConfig, FinetuneConfig, PredictConfig, RunConfig
from ssmtl_toolkit.config.recipes import read_recipe
from ssmtl_toolkit.data.folds import Folds
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.downstream.records import read_records
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.experiments.fewshot.methods import read_methods
from ssmtl_toolkit.experiments.reading import read_experiment
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.reporting.report import report
from ssmtl_toolkit.runtime import overview
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import BackboneSpec, Spec

SPECS = [
    *("slice_siam:t=5,weight=0.5", "reconstruct_next:t=15mm", "moco_v2:queue=64,temperature=0.1", "vicreg:dim=64"),
    *("unet:encoder=resnet18,width=8,weights=imagenet", "affine:rotate=10,shift=0.1", "window:levels=-100:300"),
    *("folder:scans,channels=T1+T2", "bids:root,suffix=T1w+FLAIR,desc=x", "phantom:patients=4,seed=1"),
    *("manifest:file.csv", "mmwhs:root,modality=mr", "surface_dice:tolerance=2", "uncertainty", "nnunet:size=128"),
    *(
        "restore:curve=0.5,noise=0.2",
        "slice_position:weight=0.5",
        "denoising:sigma=0.1",
        "segmentation",
        "mean_teacher",
        "torch",
        "hf:push=a/b",
    ),
    'folder:"a,b",public=true',
]
OPTIONS: dict[str, Any] = {
    "data": ["phantom:patients=4", "phantom:patients=5"],
    "backbone": "unet:encoder=plain,width=8",
    "tasks": ["reconstruct_prev:t=1", "slice_siam:t=15mm,weight=auto"],
    "augment": ["affine:rotate=10", "noise"],
    "prepare": ["resample:spacing=1"],
    "schedule": "cosine:warmup=0.05",
    "size": 64,
    "steps": 10,
    "lr": 1e-3,
    "clip": 1.0,
    "seed": 3,
    "axis": "axial",
    "window": [-100.0, 300.0],
    "normalise": "scan",
    "volume": 0,
    "precision": "32",
    "batch_size": 4,
}
FINETUNE: dict[str, Any] = {
    **{k: v for k, v in OPTIONS.items() if k in ("data", "backbone", "size", "lr", "augment", "seed", "axis")},
    "classes": "a=1,b=2+3",
    "train_scans": 2,
    "test_scans": 1,
    "slices_per_scan": 3,
    "seeds": 2,
    "steps": 10,
    "metrics": ["iou", "surface_dice:tolerance=2"],
    "head": "segmentation",
    "recipe": "strong",
    "patient": "(.+)_x",
    "semi": "none",
    "ignore_value": 255,
    "surface": False,
    "tolerance": 2.0,
}
PREDICT = {
    "tta": "flips",
    "smooth": 1.0,
    "largest_component": "all",
    "batch_size": 4,
    "volume": "all",
    "head": "denoising",
}
EVALUATE = {"classes": "a=1,b=2", "metrics": ["iou"], "tolerance": 2.0, "surface": True, "ignore_value": 255}
EXPERIMENT: dict[str, Any] = {
    "data": "phantom:patients=4",
    "backbones": {"small": "unet:encoder=plain,width=8"},
    "pretrain": {"size": 32, "steps": 4},
    "finetune": {"seeds": 1, "steps": 4, "classes": "LV=500"},
    "split": {"test": 1, "train": 2},
    "rows": {
        "one": {"name": "One", "backbone": "small", "tasks": ["reconstruct_next:t=1"], "published": {"iou": 0.5}},
        "two": {"backbone": "small", "tasks": []},
    },
    "on": {"phantom": {"pretrain": {"steps": 5}}},
    "quick": {"finetune": {"steps": 2}},
}
METHODS = {
    "methods": {
        "a": {"name": "A", "tasks": ["reconstruct_next:t={t}"]},
        "b": {"weights": "package:x"},
        "c": {"tasks": ["slice_siam"], "pretrain": {"steps": 4}, "finetune": {"lr": 0.1}},
    }
}
RECIPE = {"augment": ["affine"], "lr": 1e-3, "optimizer": "adamw", "schedule": "poly:power=0.9", "recipe": "strong"}
NNUNET = {
    "channel_names": {"0": "CT", "1": "T1"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
    "regions_class_order": [1, 2],
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "dataset": {"c": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}},
}
DECATHLON = {
    "name": "x",
    "tensorImageSize": "3D",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "liver"},
    "training": [{"image": "./imagesTr/a_0000.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    "test": ["./imagesTr/b_0000.nii.gz"],
    "validation": [{"image": ["imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz"]}],
}
MANIFEST_CSV = (
    "image,label,patient,modality,slices,name\n"
    "imagesTr/a_0000.nii.gz,labelsTr/a.nii.gz,p1,CT,0 2-3,one\n"
    "imagesTr/b_0000.nii.gz,,p2,CT,,two"
)
MANIFEST = {
    "scan": [
        {"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz", "patient": "p", "slices": [1, 2]},
        {"image": ["imagesTr/b_0000.nii.gz"], "masks": {"liver": "labelsTr/a.nii.gz"}, "name": "b"},
    ],
    "classes": {"liver": 1, "both": [1, 2]},
}
SPLIT = {"patient": "(.+)", "train": ["a"], "validation": ["c"], "test": ["b"], "slices": [{"a": [1, 2]}]}
FOLDS = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]
PLANS = {
    "configurations": {
        "2d": {
            "architecture": {
                "network_class_name": "x.PlainConvUNet",
                "arch_kwargs": {
                    "conv_op": "torch.nn.modules.conv.Conv2d",
                    "features_per_stage": [8, 16, 32],
                    "strides": [[1, 1], [2, 2], [2, 2]],
                    "kernel_sizes": [[3, 3], [3, 3], [3, 3]],
                    "n_conv_per_stage": [2, 2, 2],
                    "n_conv_per_stage_decoder": [2, 2],
                },
            }
        }
    }
}
SLICES = {"spacing": [2.0, 1.0, 1.0], "axis": "axial", "colours": False}


def targets(folder: Path, runs: Iterable[Path] = ()) -> list[Target]:
    """All targets; `folder` is for their files, `runs` are run folders whose records are damaged."""
    return [*_texts(), *_documents(folder), *_data(folder), *_scans(folder), *_records(folder, runs)]


def _texts() -> list[Target]:
    def resolve(given: str) -> None:
        for cls in Spec.__subclasses__():
            try:
                spec = registry().resolve(cls, given)
            except UsageError:
                continue
            assert registry().resolve(cls, spec.full()) == spec
            assert registry().resolve(cls, str(spec)) == spec
            return
        raise UsageError("none")

    def options(config: Any) -> Callable[[Any], None]:
        return lambda given: config.of(tomllib.loads(given.decode()) if isinstance(given, bytes) else given).resolve()

    def changed(given: dict[str, Any]) -> Callable[[random.Random], Any]:
        from helpers.fuzzing import tree

        return lambda chance: {str(k): v for k, v in tree(given, chance).items()}

    return [
        Target("spec texts", choose(SPECS), resolve),
        Target("data texts", choose(SPECS[6:12]), lambda given: dataset_of(given)),
        Target("options of run", changed(OPTIONS), options(RunConfig)),
        Target("options of finetune", changed(FINETUNE), options(FinetuneConfig)),
        Target("options of predict", changed(PREDICT), lambda given: PredictConfig.of(given).largest(["a"])),
        Target("options of evaluate", changed(EVALUATE), lambda given: EvaluateConfig.of(given)),
    ]


def _written(file: Path, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Write what is given to the file, read that, and leave the file as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_bytes() if file.is_file() else None

    def use(given: bytes) -> None:
        file.write_bytes(given)
        try:
            read(file)
        finally:
            file.unlink() if before is None else file.write_bytes(before)

    return use


def _documents(folder: Path) -> list[Target]:
    def config(cls: Any) -> Callable[[Path], object]:
        return lambda file: cls.of(cls.read(file), str(file)).resolve()

    def folds(file: Path) -> None:
        from ssmtl_toolkit.specs import Scan

        scans = [Scan(Path(name), name, name) for name in "ab"]
        Folds.read(file).splits(scans)

    return [
        Target("run.toml", lambda c: as_toml(OPTIONS, c), _written(folder / "run.toml", config(RunConfig))),
        Target("finetune.toml", lambda c: as_toml(FINETUNE, c), _written(folder / "f.toml", config(FinetuneConfig))),
        Target("recipe", lambda c: as_toml(RECIPE, c), _written(folder / "r.toml", lambda f: read_recipe(str(f)))),
        Target("experiment", lambda c: as_toml(EXPERIMENT, c), _written(folder / "e.toml", read_experiment)),
        Target(
            "methods", lambda c: as_toml(METHODS, c), _written(folder / "m.toml", lambda f: read_methods([str(f)], 1))
        ),
        Target("split.json", lambda c: as_json(SPLIT, c), _written(folder / "split.json", Split.read)),
        Target("splits_final.json", lambda c: as_json(FOLDS, c), _written(folder / "splits_final.json", folds)),
        Target(
            "plans.json",
            lambda c: as_json(PLANS, c),
            _written(folder / "plans.json", lambda f: registry().resolve(BackboneSpec, f'nnunet:plans="{f}"')),
        ),
    ]


def _data(folder: Path) -> list[Target]:
    readers = installed_readers()

    def everything(given: str) -> Callable[[Path], None]:
        def read(file: Path) -> None:
            root = bids if given.startswith("bids") else file.parent
            dataset = dataset_of(given.format(file=file, folder=file.parent))
            for scan in dataset.scans(folder / "cache", readers):
                assert not Path(scan.name).is_absolute()
                assert ".." not in Path(scan.name).parts
                for path in (*scan.paths, *scan.label_paths):
                    assert path.resolve().is_relative_to(root.resolve()), f"{path} is outside"
            dataset.classes(), dataset.ignored(), dataset.layout()

        return read

    def fill(place: Path) -> Path:
        for name in ("imagesTr/a_0000", "imagesTr/b_0000", "labelsTr/a", "labelsTr/b"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.nii.gz").write_bytes(_nifti(np.int16))
        return place

    bids = folder / "bids"
    for sub in "12":
        (bids / f"sub-{sub}" / "anat").mkdir(parents=True, exist_ok=True)
        (bids / f"sub-{sub}" / "anat" / f"sub-{sub}_T1w.nii.gz").write_bytes(_nifti(np.int16))
        (bids / "derivatives" / "x" / f"sub-{sub}" / "anat").mkdir(parents=True, exist_ok=True)
        (bids / "derivatives" / "x" / f"sub-{sub}" / "anat" / f"sub-{sub}_dseg.nii.gz").write_bytes(_nifti(np.uint8))
    (bids / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.0"}')
    table = "index\tname\n1\tliver\n2\tspleen"
    csv, toml = fill(folder / "manifest"), MANIFEST
    return [
        Target(
            "dataset.json",
            lambda c: as_json(c.choice((NNUNET, DECATHLON)), c),
            _written(fill(folder / "nnunet") / "dataset.json", everything("folder:{folder}")),
        ),
        Target(
            "data list",
            lambda c: as_json(DECATHLON, c),
            _written(fill(folder / "list") / "list.json", everything("{file}")),
        ),
        Target(
            "manifest.csv", lambda c: as_lines(MANIFEST_CSV, c), _written(csv / "m.csv", everything("manifest:{file}"))
        ),
        Target("manifest.toml", lambda c: as_toml(toml, c), _written(csv / "m.toml", everything("{file}"))),
        Target(
            "dseg.tsv",
            lambda c: as_lines(table.replace("\t", ","), c).replace(b",", b"\t"),
            _written(bids / "derivatives" / "x" / "dseg.tsv", everything(f"bids:{bids}")),
        ),
        Target(
            "dataset_description",
            lambda c: as_json({"Name": "x", "BIDSVersion": "1.0"}, c),
            _written(bids / "dataset_description.json", everything(f"bids:{bids}")),
        ),
    ]


def _nifti(kind: Any, suffix: str = ".nii.gz") -> bytes:
    voxels = (np.arange(6 * 5 * 4).reshape(6, 5, 4) % 3).astype(kind)
    image = nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x"))
    content = image.to_bytes()
    if suffix == ".nii.gz":
        import gzip

        return gzip.compress(content, mtime=0)
    return content


NRRD = (
    b"NRRD0005\n# a comment\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 3 2\n"
    b"space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    b"space origin: (0,0,0)\nSegment0_ID:=Segment_1\nSegment0_LabelValue:=1\nSegment0_Layer:=0\nSegment0_Name:=liver\n"
    b"Segment0_Extent:=0 3 0 2 0 1\n\n"
)
MHA = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    b"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nCenterOfRotation = 0 0 0\nElementSpacing = 1 1 2\n"
    b"DimSize = 4 3 2\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
VOXELS = np.arange(24, dtype="<i2").tobytes()


def _scans(folder: Path) -> list[Target]:
    readers = installed_readers()
    folder = folder / "scans"
    folder.mkdir(parents=True, exist_ok=True)

    def read(file: Path) -> None:
        failed = None
        for work in (readers.read, readers.header, readers.classes):
            try:
                work(file)
            except Exception as error:
                from ssmtl_toolkit.errors import SsmtlError

                if not isinstance(error, SsmtlError):
                    raise
                failed = error
        if failed:
            raise failed

    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    nib.save(nib.MGHImage(np.ones((4, 3, 2), np.float32), affine), folder / "good.mgz")
    mgh = nib.MGHImage(np.ones((4, 3, 2), np.float32), affine).to_bytes()
    series = folder / "series"
    dicom_files.write_series(series)
    slice_file = sorted(series.iterdir())[0]
    dicom = slice_file.read_bytes()
    images = label_files.sources()
    label_files.write_scan_series(folder / "labelled" / "scan", images)
    files = {
        "NIfTI": ("a.nii", _nifti(np.int16, ".nii"), 360),
        "NIfTI gz": ("a.nii.gz", _nifti(np.int16), 100),
        "NRRD": ("a.nrrd", NRRD + VOXELS, 400),
        "MHA": ("a.mha", MHA + VOXELS, 400),
        "MGH": ("a.mgh", mgh, 300),
        "DICOM": (slice_file.name, dicom, len(dicom)),
    }
    made = [
        Target(
            name,
            lambda c, content=content, head=head: as_bytes(content, c, head),
            _written(
                (series if name == "DICOM" else folder) / file, lambda f, n=name: read(f.parent if n == "DICOM" else f)
            ),
        )
        for name, (file, content, head) in files.items()
    ]
    for name in ("NRRD", "MHA"):
        header = {"NRRD": NRRD, "MHA": MHA}[name].decode()
        made.append(
            Target(
                f"{name} texts",
                lambda c, h=header: text(h, c).encode("utf-8", "surrogatepass") + VOXELS,
                _written(folder / f"t.{name.lower()}", read),
            )
        )
    made += _labels(folder, images)
    from PIL import Image

    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.fromarray(np.full((5, 4), i, np.uint8)).save(pictures / f"{i}.png")
    png = (pictures / "1.png").read_bytes()
    made += [
        Target(
            "slices.toml", lambda c: as_toml(SLICES, c), _written(pictures / "slices.toml", lambda f: read(f.parent))
        ),
    ]
    many = folder / "many"
    shutil.copytree(pictures, many)
    made += [Target("PNG", lambda c: as_bytes(png, c, 60), _written(many / "1.png", lambda f: read(f.parent)))]
    return made


def _labels(folder: Path, images: list[Any]) -> list[Target]:
    """SEG and RTSTRUCT of a series."""
    readers = installed_readers()
    series = folder / "labelled" / "scan"
    image = readers.read(series)
    columns, rows, slices = images[0].Columns, images[0].Rows, len(images)
    masks = np.zeros((columns, rows, slices, 2), bool)
    masks[1:3, 1:3, 1, 0] = masks[0, 0, 0, 1] = True
    square = np.array([[1, 1, 1], [3, 1, 1], [3, 3, 1], [1, 3, 1]], float)
    made = []
    for file in (
        label_files.write_seg(folder / "labelled" / "seg.dcm", images, masks, ["liver", "spleen"]),
        label_files.rtstruct(folder / "labelled" / "rtstruct.dcm", {"liver": [square], "spleen": [square]}),
    ):
        content = file.read_bytes()
        made.append(
            Target(
                file.stem,
                lambda c, content=content: as_bytes(content, c, len(content)),
                _written(file, lambda f: (readers.classes(f), readers.read_label(f, image, None))),
            )
        )
    return made


def _records(folder: Path, runs: Iterable[Path]) -> list[Target]:
    made: list[Target] = []
    for number, run in enumerate(runs):
        place = folder / f"record{number}" / run.parent.name
        shutil.copytree(
            run, place, ignore=shutil.ignore_patterns("*.safetensors", "checkpoints", "report.html", "*.png")
        )
        for file in sorted(place.rglob("*")):
            if file.suffix in (".json", ".toml", ".jsonl") and file.parent in (place, *sorted(place.iterdir())[:1]):
                made.append(_record(place, file))
    place = folder / "predicted"
    place.mkdir(exist_ok=True)
    record = {"files": {"a.nii.gz": {"model": "x", "digest": "y"}}}
    made.append(
        Target(
            "prediction.json",
            lambda c: as_json(record, c),
            _written(place / "prediction.json", lambda f: read_records(f.parent)),
        )
    )
    return made


def _record(place: Path, file: Path) -> Target:
    content = file.read_bytes()

    def read(given: bytes) -> None:
        file.write_bytes(given)
        try:
            overview.runs_below(place)
            MetricLog(place / "metrics.jsonl").records()
            report(place, out=place.parent / "report.html")
        finally:
            file.write_bytes(content)

    name = f"{place.name}/{file.relative_to(place)}"
    if file.suffix == ".json":
        return Target(name, lambda c: as_json(json.loads(content), c), read)
    if file.suffix == ".toml":
        return Target(name, lambda c: as_toml(tomllib.loads(content.decode()), c), read)
    lines = [json.loads(line) for line in content.decode().splitlines()]
    return Target(
        name,
        lambda c: b"\n".join(as_json(line, c) if c.random() < 0.3 else json.dumps(line).encode() for line in lines),
        read,
    )
