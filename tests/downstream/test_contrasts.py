"""A model predicts from the contrasts that it was trained on, and from no other; predictions are called like labels."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from helpers.small import SMALL, ball
from ssmtl_toolkit.downstream.contrasts import Input, common_contrasts
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Scan


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def taken(takes, text, tmp_path):
    scans = takes.scans(dataset_of(str(text)), tmp_path)
    return {scan.name: [path.name for path in scan.paths] for scan in scans if not scan.unfit}


@pytest.fixture
def two(tmp_path):
    """imagesTs with two cases of two channels."""
    touch(tmp_path, *(f"imagesTs/c_{i}_000{k}.nii.gz" for i in (1, 2) for k in (0, 1)))
    return tmp_path / "imagesTs"


def test_a_model_of_one_channel_takes_its_own_and_names_the_case(two, tmp_path):
    for contrast in ("0000", "0001"):
        assert taken(Input(1, (contrast,)), two, tmp_path) == {
            case: [f"{case}_{contrast}.nii.gz"] for case in ("c_1", "c_2")
        }
    skipped = [scan.unfit for scan in Input(1, ("0000",)).scans(dataset_of(str(two)), tmp_path) if scan.unfit]
    assert skipped == [f"folder:{two}: files of 0001 are not used, the model takes 0000"]


@pytest.mark.parametrize("contrasts", [("0000", "0001"), ()])
def test_a_model_of_two_channels_takes_both(two, tmp_path, contrasts):
    assert taken(Input(2, contrasts), two, tmp_path) == {
        case: [f"{case}_0000.nii.gz", f"{case}_0001.nii.gz"] for case in ("c_1", "c_2")
    }


def test_channels_keep_the_order_of_the_training(two, tmp_path):
    assert taken(Input(2, ("0001", "0000")), two, tmp_path)["c_1"] == ["c_1_0001.nii.gz", "c_1_0000.nii.gz"]


def test_it_is_not_guessed_which_channel_a_model_takes(two, tmp_path):
    with pytest.raises(UsageError, match="has files of 0000, 0001, and the model takes 1 channel but does not record"):
        taken(Input(1, ()), two, tmp_path)
    assert len(taken(Input(1, ()), f"folder:{two},channels=none", tmp_path)) == 4
    assert list(taken(Input(1, ()), f"folder:{two},channels=1", tmp_path)) == ["c_1", "c_2"]


@pytest.mark.parametrize("text", ["{}/c_1_0001.nii.gz", "folder:{},channel=1", "folder:{},channels=1"])
def test_another_channel_is_refused_however_it_is_given(two, tmp_path, text):
    given = text.format(two)
    if "channel=1" in given:
        assert list(taken(Input(1, ("0001",)), given, tmp_path)) == ["c_1", "c_2"]
    with pytest.raises(UsageError, match=r"c_1_0001\.nii\.gz: is 0001 by its name, and the model was trained on 0000"):
        taken(Input(1, ("0000",)), given, tmp_path)


def test_a_single_file_of_the_right_channel_is_called_like_its_case(two, tmp_path):
    assert taken(Input(1, ("0000",)), two / "c_1_0000.nii.gz", tmp_path) == {"c_1": ["c_1_0000.nii.gz"]}


def test_contrasts_under_other_names_are_refused(two, tmp_path):
    with pytest.raises(UsageError, match=r"has files of 0000, 0001, and the model was trained on t1n\+t2f; give scans"):
        taken(Input(2, ("t1n", "t2f")), two, tmp_path)


def test_brats_and_bids_are_listed_with_the_contrasts_of_the_model(tmp_path):
    touch(tmp_path, *(f"b/BraTS-GLI-00001-000/BraTS-GLI-00001-000-{c}.nii.gz" for c in ("t1n", "t1c", "t2w", "t2f")))
    (paths,) = taken(Input(2, ("t2f", "t1n")), tmp_path / "b", tmp_path).values()
    assert [path[-10:-7] for path in paths] == ["t2f", "t1n"]
    touch(tmp_path, *(f"s/sub-1/anat/sub-1_{c}.nii.gz" for c in ("T1w", "FLAIR")))
    (paths,) = taken(Input(1, ("FLAIR",)), f"bids:{tmp_path / 's'}", tmp_path).values()
    assert paths == ["sub-1_FLAIR.nii.gz"]
    with pytest.raises(UsageError, match=r"is T1w by its name, and the model was trained on FLAIR"):
        taken(Input(1, ("FLAIR",)), f"bids:{tmp_path / 's'},suffix=T1w", tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("amos_0001.nii.gz", "amos_0004.nii.gz"),
        ("scan_0000.nii.gz", "scan_0001.nii.gz"),
        ("a.nii.gz", "b.nii.gz"),
    ],
)
def test_numbers_that_are_no_channels_are_scans(tmp_path, names):
    touch(tmp_path, *(f"x/{name}" for name in names))
    assert len(taken(Input(1, ("0000",)), tmp_path / "x", tmp_path)) == 2


def test_contrasts_of_a_training_are_known_if_all_scans_agree(tmp_path):
    def of(*kinds):
        return [Scan(tmp_path, "x", "x", contrasts=kind) for kind in kinds]

    assert common_contrasts(of(("a",), ("a",))) == ("a",)
    assert common_contrasts(of(("a",), ("b",))) == common_contrasts(of(("a",), ())) == common_contrasts([]) == ()


@pytest.mark.slow
def test_predictions_of_images_ts_are_paired_with_labels_ts(tmp_path, ssmtl):
    affine = np.diag([-0.8, -0.8, 2.0, 1.0])
    for i, part in enumerate(("Tr", "Tr", "Tr", "Ts")):
        image, label = ball(8, seed=i)
        arrays = {f"images{part}/la_{i}_0000": 300 - image, f"images{part}/la_{i}_0001": image}
        for name, array in {**arrays, f"labels{part}/la_{i}": label // 10}.items():
            (tmp_path / "nn" / name).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), tmp_path / "nn" / f"{name}.nii.gz")
    said = {"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz"}
    said["labels"] = {"background": 0, "first": 1, "ignore": 2}
    (tmp_path / "nn" / "dataset.json").write_text(json.dumps(said))
    options = ("--size", 32, "--steps", 2, "--backbone", SMALL, "--no-surface", "--test-scans", 1)
    done = ssmtl("finetune", "--data", "folder:nn,channels=T2", *options, "--out", "ft")
    assert done.returncode == 0, done.stderr
    done = ssmtl("predict", "--from", "ft", "nn/imagesTs", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["la_3.nii.gz", "prediction.json"]
    assert json.loads((tmp_path / "out/prediction.json").read_text())["classes"]["ignore"] == 2
    for label in ("nn/labelsTs", "nn"):
        done = ssmtl("evaluate", "--pred", "out", "--label", label, "--no-surface", "--json")
        assert done.returncode == 0, done.stderr
        assert [scan["name"] for scan in json.loads(done.stdout)["scans"]] == ["la_3"]
