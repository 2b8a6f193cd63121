"""Predicted files against label files, from the command line, against counts made by hand."""

import json

import nibabel as nib
import numpy as np
import pytest

import ssmtl_toolkit as toolkit

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


def save(file, array, affine=AFFINE):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), file)


def volumes(seed, values=(0, 10, 20)):
    return np.random.default_rng(seed).choice(values, (7, 6, 5)).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    """Three pairs of random label maps below pred/ and label/."""
    for i in range(3):
        save(tmp_path / "pred" / f"s{i}.nii.gz", volumes(i))
        save(tmp_path / "label" / f"s{i}.nii.gz", volumes(10 + i))
    return tmp_path


def test_scores_are_those_counted_by_hand(files, ssmtl):
    done = ssmtl("evaluate", "--pred", "pred", "--label", "label", "--no-surface", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ours, theirs = ([volumes(base + i) for i in range(3)] for base in (0, 10))
    for value in (10, 20):
        a, b = (np.stack(arrays) == value for arrays in (ours, theirs))
        assert found["classes"][str(value)]["iou"] == pytest.approx((a & b).sum() / (a | b).sum())
        dice = [2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in zip(a, b, strict=True)]
        assert found["classes"][str(value)]["dice"]["mean"] == pytest.approx(np.mean(dice))
        assert found["classes"][str(value)]["dice"]["sd"] == pytest.approx(np.std(dice, ddof=1))
    assert found["mean"]["iou"] == pytest.approx(np.mean([found["classes"][v]["iou"] for v in ("10", "20")]))
    assert "penalised" in found["rule"]


def test_hd95_is_in_mm_and_a_table_is_printed(files, ssmtl):
    label = np.zeros((9, 9, 9), np.uint8)
    label[2:5, 2:5, 2:5] = 1
    moved = np.roll(label, 2, axis=2)
    save(files / "p" / "x.nii.gz", moved)
    save(files / "l" / "x.nii.gz", label)
    done = ssmtl("evaluate", "--pred", "p", "--label", "l", "--surface", "--tolerance", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"]["1"]["hd95"]["mean"] == pytest.approx(6)  # two slices of 3 mm
    done = ssmtl("evaluate", "--pred", "p/x.nii.gz", "--label", "l/x.nii.gz", "--classes", "cube=1")
    assert done.returncode == 0, done.stderr
    assert "cube" in done.stderr
    assert "6.0" in done.stderr


def test_a_class_in_one_of_both_counts_as_zero_and_in_neither_as_undefined(files, ssmtl):
    one, none = np.zeros((2, 6, 6, 6), np.uint8)
    one[2:4, 2:4, 2:4] = 1
    save(files / "p" / "false_positive.nii.gz", one)
    save(files / "l" / "false_positive.nii.gz", none)
    save(files / "p" / "neither.nii.gz", none)
    save(files / "l" / "neither.nii.gz", none)
    save(files / "p" / "right.nii.gz", one)
    save(files / "l" / "right.nii.gz", one)
    found = toolkit.evaluate(files / "p", files / "l", classes="cube=1", surface=True)["classes"]["cube"]
    assert found["dice"] == {"mean": 0.5, "sd": pytest.approx(np.std([0, 1], ddof=1)), "n": 2, "undefined": 1}
    assert found["hd95"]["mean"] == pytest.approx(np.linalg.norm([5, 5, 15]) / 2)
    assert (found["hd95"]["penalised"], found["hd95"]["undefined"]) == (1, 1)
    assert found["surface_dice"]["mean"] == 0.5


def test_voxels_that_nobody_annotated_are_in_no_count(files):
    label, pred = volumes(10), volumes(0)
    label[:4] = 255
    save(files / "l" / "x.nii.gz", label)
    save(files / "p" / "x.nii.gz", pred)
    found = toolkit.evaluate(files / "p", files / "l", ignore_value=255, surface=False)["scans"][0]["classes"]["10"]
    assert found["tp"] == np.count_nonzero((pred[4:] == 10) & (label[4:] == 10))
    assert found["fp"] == np.count_nonzero((pred[4:] == 10) & (label[4:] != 10))


def test_what_has_no_partner_is_named_and_counted(files, ssmtl):
    save(files / "pred" / "alone.nii.gz", volumes(5))
    (files / "label" / "s0.nii.gz").rename(files / "label" / "other.nii.gz")
    done = ssmtl("evaluate", "--pred", "pred", "--label", "label", "--no-surface", "--json")
    assert json.loads(done.stdout)["unpaired"] == {"predictions": 2, "labels": 1}
    assert "2 predictions have no label and are not scored: alone, s0" in done.stderr
    assert "1 labels have no prediction and are not scored: other" in done.stderr


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda f: save(f / "pred" / "s1.nii.gz", volumes(1)[1:]), 3, "6 x 6 x 5 voxels, its label has 7 x 6 x 5"),
        (lambda f: save(f / "pred" / "s1.nii.gz", volumes(1), np.diag([1, 1, 4, 1])), 3, "--ignore-affine"),
        (lambda f: save(f / "label" / "s1.nii.gz", volumes(1) * np.float32(0.37)), 3, "whole numbers"),
        (lambda f: save(f / "label" / "s1.nii.gz", np.where(volumes(1) > 0, np.nan, 0)), 3, "NaN"),
        (lambda f: (f / "label" / "s1.nii.gz").write_bytes(b"x"), 3, "s1.nii.gz"),
        (lambda f: save(f / "label" / "s1.nii", volumes(1)), 3, "has the same name as"),
    ],
)
def test_files_that_cannot_be_compared_are_refused_by_name(files, ssmtl, change, code, said):
    change(files)
    done = ssmtl("evaluate", "--pred", "pred", "--label", "label", "--no-surface")
    assert done.returncode == code
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--pred", "no", "--label", "label"], 3, "no: no such file or folder; check --pred"),
        (["--pred", "pred"], 2, "--label"),
        (["--pred", "pred", "--label", "label", "--classes", "a"], 2, "name=value"),
        (["--pred", "pred", "--label", "label", "--tolerance", "-1"], 2, "tolerance"),
        (["--pred", "pred", "--label", "label", "--classes", "a=10"], 3, "20"),
    ],
)
def test_wrong_use_is_told(files, ssmtl, arguments, code, said):
    done = ssmtl("evaluate", *arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_real_labels_against_themselves_are_perfect_and_moved_ones_are_not(hippocampus, tmp_path):
    for i, file in enumerate(sorted((hippocampus / "labels").iterdir())[:3]):
        image = nib.load(file)
        array = np.asanyarray(image.dataobj).astype(np.uint8)
        save(tmp_path / "same" / file.name, array, image.affine)
        save(tmp_path / "moved" / file.name, np.roll(array, 1, axis=i), image.affine)
    same = toolkit.evaluate(tmp_path / "same", hippocampus / "labels", surface=True)
    assert same["mean"] == {"iou": 1, "dice": 1, "hd95": 0, "surface_dice": 1}
    moved = toolkit.evaluate(tmp_path / "moved", hippocampus / "labels", surface=True)
    assert moved["mean"]["hd95"] == pytest.approx(1.0)
    assert 0.5 < moved["mean"]["iou"] < 0.95
