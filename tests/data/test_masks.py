"""One mask file per structure: joined to a label map, in manifests, and from fine-tuning to scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from helpers.small import SMALL, ball
from ssmtl_toolkit.data.labels import label_values, stored_label
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.experiments.fewshot.gathering import write_manifest
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Mask, Scan

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def write(file: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), file)
    return file


def slab(*rows: int, value: int = 1) -> np.ndarray:
    array = np.zeros((10, 4, 3), np.uint8)
    array[list(rows)] = value
    return array


def scan_of(folder: Path, **masks: np.ndarray | None) -> Scan:
    listed = tuple(
        Mask(name, value, None if array is None else write(folder / f"{name}.nii.gz", array))
        for value, (name, array) in enumerate(masks.items(), start=1)
    )
    return Scan(folder / "ct.nii.gz", "s", "s", label=folder, masks=listed)


def test_masks_become_a_label_map_with_the_value_of_each_structure(tmp_path):
    volume = stored_label(scan_of(tmp_path, liver=slab(1, 2), spleen=slab(5, value=255)), installed_readers())
    assert volume.array[:, 0, 0].tolist() == [0, 1, 1, 0, 0, 2, 0, 0, 0, 0]
    assert volume.notes == ()


ORDERS = [("tumour", "liver", "body"), ("body", "liver", "tumour"), ("liver", "body", "tumour")]


@pytest.mark.parametrize("order", ORDERS)
def test_where_masks_overlap_the_smaller_structure_counts_in_any_order(tmp_path, order):
    arrays = {"body": slab(*range(10)), "liver": slab(2, 3, 4, 5), "tumour": slab(4, 5, 6)}
    scan = scan_of(tmp_path, **{name: arrays[name] for name in order})
    values = {mask.name: mask.value for mask in scan.masks}
    volume = stored_label(scan, installed_readers())
    expected = ["body", "body", "liver", "liver", "tumour", "tumour", "tumour", "body", "body", "body"]
    assert volume.array[:, 0, 0].tolist() == [values[name] for name in expected]
    (note,) = volume.notes
    assert "liver and tumour 24" in note.replace("tumour and liver", "liver and tumour")
    assert note.endswith("the smaller structure has them")


def test_of_equal_structures_the_first_has_the_voxels(tmp_path):
    volume = stored_label(scan_of(tmp_path, a=slab(1, 2), b=slab(2, 3)), installed_readers())
    assert volume.array[:, 0, 0].tolist()[:5] == [0, 1, 1, 2, 0]
    assert volume.notes == ("masks overlap in 12 voxels (a and b 12); the smaller structure has them",)


def test_a_mask_that_other_scans_have_is_missed_by_name(tmp_path):
    volume = stored_label(scan_of(tmp_path, liver=slab(1), spleen=None), installed_readers())
    assert volume.notes == ("has no mask of spleen, which other scans have",)


def test_masks_in_another_order_of_axes_are_turned(tmp_path):
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    scan = scan_of(tmp_path, liver=slab(1), spleen=slab(5))
    write(tmp_path / "spleen.nii.gz", slab(5)[::-1], flipped)
    assert stored_label(scan, installed_readers()).array[:, 0, 0].tolist() == [0, 1, 0, 0, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (slab(1) + slab(2, value=2), r"spleen\.nii\.gz: has the values 1, 2; the mask of one structure has a single"),
        (np.zeros((9, 4, 3), np.uint8), r"spleen\.nii\.gz: has 9 x 4 x 3 voxels, the scan's first mask has 10 x 4 x 3"),
        (slab(1).astype(np.float32) * 0.25 + slab(2) * 0.5, r"spleen\.nii\.gz: has the values 0\.25, 0\.5"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(tmp_path, array, said):
    with pytest.raises(DataError, match=said):
        stored_label(scan_of(tmp_path, liver=slab(1), spleen=array), installed_readers())


def test_many_structures_keep_their_values(tmp_path):
    masks = tuple(
        Mask(f"m{value}", value, write(tmp_path / f"m{value}.nii.gz", slab(value % 10))) for value in (3, 300, 70000)
    )
    volume = stored_label(Scan(tmp_path, "s", "s", label=tmp_path, masks=masks[1:]), installed_readers())
    assert set(np.unique(label_values(volume, "x")).tolist()) <= {0, 300, 70000}


@pytest.mark.parametrize("form", ["csv", "toml"])
def test_a_manifest_may_list_a_mask_for_each_structure(tmp_path, form):
    for name in ("a", "b"):
        for part in ("ct", "liver", "spleen"):
            write(tmp_path / name / f"{part}.nii.gz", slab(1))
    if form == "csv":
        text = "image,mask:spleen,mask:liver\na/ct.nii.gz,a/spleen.nii.gz,a/liver.nii.gz\nb/ct.nii.gz,,b/liver.nii.gz\n"
    else:
        text = (
            "[classes]\nliver = 6\nspleen = 1\n"
            '[[scan]]\nimage = "a/ct.nii.gz"\nmasks = {spleen = "a/spleen.nii.gz", liver = "a/liver.nii.gz"}\n'
            '[[scan]]\nimage = "b/ct.nii.gz"\nmasks = {liver = "b/liver.nii.gz"}\n'
        )
    (tmp_path / f"x.{form}").write_text(text)
    dataset = dataset_of(str(tmp_path / f"x.{form}"))
    values = {"liver": (1,), "spleen": (2,)} if form == "csv" else {"liver": (6,), "spleen": (1,)}
    assert dataset.classes() == values
    first, second = list_scans(dataset, tmp_path)
    assert first.masks == tuple(Mask(n, values[n][0], tmp_path / f"a/{n}.nii.gz") for n in values)
    assert {mask.name: mask.path for mask in second.masks} == {"liver": tmp_path / "b/liver.nii.gz", "spleen": None}


def test_wrong_masks_in_a_manifest_are_refused_with_their_line(tmp_path):
    write(tmp_path / "ct.nii.gz", slab(1))
    write(tmp_path / "liver.nii.gz", slab(1))
    for text, said in {
        "image,label,mask:x\nct.nii.gz,liver.nii.gz,liver.nii.gz\n": "line 2: has both a label map and masks",
        "image,mask:x\nct.nii.gz,lever.nii.gz\n": r"line 2: the mask of x .*lever\.nii\.gz does not exist",
        "image,mask:\nct.nii.gz,liver.nii.gz\n": "line 1: unknown column 'mask:'",
    }.items():
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(DataError, match=said):
            list_scans(dataset_of(str(tmp_path / "x.csv")), tmp_path)


@pytest.mark.slow
def test_masks_per_structure_are_fine_tuned_on_predicted_and_scored(tmp_path, ssmtl):
    for i in range(4):
        image, label = ball(8, seed=i)
        write(tmp_path / f"ts/s000{i}/ct.nii.gz", image)
        for name, value in (("heart", 10), ("lung", 20)):
            write(tmp_path / f"ts/s000{i}/segmentations/{name}.nii.gz", (label == value).astype(np.uint8))
    options = ("--size", 32, "--steps", 20, "--backbone", SMALL)
    done = ssmtl("data", "split", "ts", "--test-scans", 1, "--out", "split.json")
    assert done.returncode == 0, done.stderr
    done = ssmtl("finetune", "--data", "ts", *options, "--split", "split.json", "--out", "ft", "--no-surface", "--json")
    assert done.returncode == 0, done.stderr
    tested = json.loads((tmp_path / "split.json").read_text())["test"]
    done = ssmtl("predict", "--from", "ft", f"ts/{tested[0]}", "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    written = nib.load(tmp_path / "out" / "ct.nii.gz")
    assert set(np.unique(np.asarray(written.dataobj)).tolist()) <= {0, 1, 2}
    done = ssmtl("predict", "--from", "ft", "ts", "-o", "all")
    assert done.returncode == 0, done.stderr
    done = ssmtl("evaluate", "--pred", "all", "--label", "ts", "--no-surface", "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert list(scores["classes"]) == ["heart", "lung"]
    assert scores["unpaired"] == {"predictions": 0, "labels": 0}
    truth = np.concatenate([ball(8, seed=i)[1].ravel() for i in range(4)])
    predicted = np.concatenate(
        [np.asarray(nib.load(tmp_path / f"all/s000{i}/ct.nii.gz").dataobj).ravel() for i in range(4)]
    )
    inside, ours = truth == 10, predicted == 1
    iou = (inside & ours).sum() / (inside | ours).sum()
    assert scores["classes"]["heart"]["iou"] == pytest.approx(iou, abs=1e-6)


def test_masks_that_a_comparison_writes_into_a_manifest_read_back(tmp_path):
    first = scan_of(tmp_path / "a", liver=slab(1), spleen=slab(5))
    second = scan_of(tmp_path / "b", liver=slab(1), spleen=None)
    for scan in (first, second):
        write(scan.path, slab(1))
    scans = [replace(scan, name=name) for scan, name in ((first, "a"), (second, "b"))]
    dataset = write_manifest(scans, "labelled", SimpleNamespace(out=tmp_path))
    assert dataset.classes() == {"liver": (1,), "spleen": (2,)}
    assert [scan.masks for scan in list_scans(dataset, tmp_path)] == [first.masks, second.masks]
