"""Preparations on the command line: trained, fine-tuned, predicted back onto the scan's grid, refused."""

import json
import tomllib

import nibabel as nib
import numpy as np
import pytest

from helpers.small import SMALL, ball, write_pair, write_scan
from ssmtl_toolkit.runtime import weights

LIST = ("percentile:low=1", "resample:spacing=1,stack=1.5", "crop=foreground", "fit=pad", "context=1")
PREPARE = [word for text in LIST for word in ("--prepare", text)]
RUN = ("--size", "24", "--backbone", SMALL, "--steps", "2", "--batch-size", "4", "--task", "reconstruct_next:t=3")
TUNE = ("--steps", "12", "--test-scans", "2", "--no-surface", "--classes", "first=10,second=20", "--batch-size", "4")
OBLIQUE = np.array([[-0.7, -0.2, 0, 5], [0.2, -0.8, 0.1, 9], [0, -0.1, 2.0, 0], [0, 0, 0, 1]])


@pytest.fixture
def labelled(tmp_path):
    for seed, name in enumerate("abcd"):
        write_pair(tmp_path / "data", name, seed=seed, affine=OBLIQUE)
    return tmp_path / "data"


def done(result, code=0):
    assert result.returncode == code, result.stderr
    return result


@pytest.mark.slow
def test_test_scores_are_those_of_the_files_that_predict_writes_on_the_grid_of_the_scan(ssmtl, tmp_path, labelled):
    done(ssmtl("run", "--data", labelled, *RUN, *PREPARE, "--out", "run"))
    options = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert [text.partition(":")[0] for text in options["prepare"]] == [
        "percentile", "resample", "crop", "fit", "context",
    ]  # fmt: skip
    tuned = done(ssmtl("finetune", "--from", "run", "--data", labelled, *TUNE, "--out", "ft", "--json"))
    scores = json.loads(tuned.stdout)["arms"]["pretrained"]
    test = json.loads((tmp_path / "ft" / "split.json").read_text())["test"]
    files = [labelled / "images" / f"{name}.nii.gz" for name in test]
    done(ssmtl("predict", "--from", "ft", *files, "--out", "out", "--probabilities", "--overlay"))
    for name in test:
        predicted, image = (
            nib.load(tmp_path / "out" / f"{name}.nii.gz"),
            nib.load(labelled / "images" / f"{name}.nii.gz"),
        )
        assert predicted.shape == image.shape
        assert np.allclose(predicted.affine, image.affine)
        chances = nib.load(tmp_path / "out" / f"{name}_probabilities.nii.gz").get_fdata()
        assert chances.shape == (*image.shape, 3)
        assert np.allclose(chances.sum(axis=-1), 1, atol=1e-4)
    told = done(ssmtl("evaluate", "--pred", "out", "--label", labelled / "labels", "--no-surface", "--json"))
    assert json.loads(told.stdout)["mean"]["iou"] == pytest.approx(scores["iou"]["mean"])


@pytest.mark.slow
def test_fine_tuning_prepares_as_the_pre_training_did_unless_it_is_told_otherwise(ssmtl, tmp_path, labelled):
    done(ssmtl("run", "--data", labelled, *RUN, "--prepare", "window=-50:120+0:60", "--out", "run"))
    read = weights.read(tmp_path / "run" / "backbone.safetensors", "").said()
    assert read["channels"] == 2
    assert [spec["spec"] for spec in read["preparations"]] == ["window:levels=-50:120+0:60"]
    assert "prepare" not in read["prepare"]  # readable by version 0.1 as long as nothing is prepared
    tune = ("finetune", "--from", "run", "--data", labelled, *TUNE)
    refused = done(ssmtl(*tune, "--prepare", "none", "--out", "ft"), 2)
    assert "was trained on slices of 2 channels" in refused.stderr
    done(ssmtl(*tune, "--prepare", "window=-50:120+10:50", "--out", "other"))
    refused = done(ssmtl("run", "--resume", "run", "--prepare", "window=lung"), 2)
    assert "prepare is ['window:levels=lung'], was ['window:levels=-50:120+0:60']" in refused.stderr


def test_wrong_preparations_are_refused_before_anything_is_read(ssmtl):
    for words, told in (
        (["windw=lung"], "did you mean 'window'"),
        (["window=lungs"], "did you mean 'lung'"),
        (["window=400:-1000"], "LOW must be below HIGH"),
        (["resample"], "give spacing=MM"),
        (["fit=stretch"], "'squeeze', 'pad'"),
        (["fit=pad", "fit=crop"], "'fit' is given twice"),
        (["window=lung", "window=bone"], "with + between them"),
        (["context=0"], "greater than or equal to 1"),
    ):
        result = done(ssmtl("run", *(word for text in words for word in ("--prepare", text))), 2)
        assert told in result.stderr


def test_a_target_within_the_context_of_its_anchor_is_refused(ssmtl, tmp_path):
    write_scan(tmp_path / "scans" / "a.nii.gz", slices=9)
    words = ("run", "--data", "scans", "--size", "24", "--backbone", SMALL, "--steps", "1", "--prepare", "context=1")
    refused = done(ssmtl(*words, "--task", "reconstruct_next:t=2"), 3)
    assert "choose a t above 2, or less context" in refused.stderr
    done(ssmtl(*words, "--task", "reconstruct_next:t=3", "--task", "slice_siam:t=2"))


def test_annotated_slices_are_those_of_the_file_also_if_the_stack_is_resampled(ssmtl, tmp_path):
    """Slices 2 mm apart, of which the file's 3 and 4 are annotated; resampled to 1 mm these are 4 of 20."""
    image, label = ball(10, seed=0)
    affine = np.diag([-0.8, -0.8, -2.0, 1.0])  # stored from the top downwards
    for name, array in (("a", image), ("b", image + 1), ("a_label", label), ("b_label", label)):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    rows = [f"{name}.nii.gz,{name}_label.nii.gz,{name},3 4" for name in "ab"]
    (tmp_path / "scans.csv").write_text("\n".join(["image,label,patient,slices", *rows]))
    words = ("finetune", "--data", "scans.csv", "--size", "24", "--backbone", SMALL, "--steps", "1", "--no-surface")
    told = done(ssmtl(*words, "--test-scans", "1", "--prepare", "resample:stack=1", "--out", "ft"))
    assert "4 slices" in told.stderr
    split = json.loads((tmp_path / "ft" / "split.json").read_text())
    ((_, slices),) = split["slices"][0].items()
    assert slices == [10, 11, 12, 13]  # from below: the file's slices 4 and 3


def write_contrasts(folder, names, volumes=3):
    """4-D files of contrasts, and a label map of each."""
    for seed, name in enumerate(names):
        image, label = ball(8, seed)
        noise = np.random.default_rng(seed).normal(0, 5, (*image.shape, volumes))
        contrasts = (image[..., None] * np.linspace(-1, 1, volumes) + 100 + noise).astype(np.float32)
        for place, array in (("images", contrasts), ("labels", label)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, OBLIQUE), folder / place / f"{name}.nii.gz")
    return folder


def test_the_contrasts_of_a_4d_file_are_channels_with_volume_all(ssmtl, tmp_path):
    data = write_contrasts(tmp_path / "data", "abcd")
    refused = done(ssmtl("run", "--data", data, *RUN), 3)
    assert "is 4-D with 3 volumes; give --volume i, 0 to 2, or all: as channels, or --axis time" in refused.stderr
    assert "3 channels" in done(ssmtl("run", "--data", data, *RUN, "--volume", "all", "--out", "run")).stderr
    done(ssmtl("finetune", "--from", "run", "--data", data, *TUNE, "--out", "ft"))
    done(ssmtl("predict", "--from", "ft", data / "images" / "a.nii.gz", "--out", "out"))
    assert nib.load(tmp_path / "out" / "a.nii.gz").shape == (32, 32, 8)
    refused = ssmtl("predict", "--from", "ft", data / "images" / "a.nii.gz", "--volume", "1", "--out", "other")
    assert "has 1 channel, and the model takes 3" in refused.stderr
    assert "expected a number from 0 on, or all" in done(ssmtl("run", "--volume", "-1"), 2).stderr


def test_a_4d_file_of_more_volumes_than_channels_is_refused(ssmtl, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 3, 65), np.int16), np.eye(4)), tmp_path / "fmri.nii.gz")
    refused = done(ssmtl("run", "--data", "fmri.nii.gz", *RUN, "--volume", "all"), 3)
    assert "has 65 volumes, more than the 64 channels that are possible; choose one" in refused.stderr


def test_slices_that_are_made_in_another_way_than_those_of_the_pre_training_are_noted(ssmtl, labelled):
    done(ssmtl("run", "--data", labelled, *RUN, "--axis", "axial", "--out", "run"))
    tune = ("finetune", "--from", "run", "--data", labelled, *TUNE)
    told = done(ssmtl(*tune, "--size", "32", "--axis", "coronal", "--prepare", "fit=pad", "--out", "other"))
    assert (
        "slices are made in another way than those of the pre-training: axis is coronal, was axial; size is 32, "
        "was 24; prepare is fit:how=pad, was none" in told.stderr
    )
    assert "another way" not in done(ssmtl(*tune, "--out", "same")).stderr


@pytest.mark.parametrize(("size", "noted"), [(16, True), (64, False)])
def test_slices_too_small_for_the_depth_of_the_network_are_noted(ssmtl, scans, size, noted):
    words = (
        "--backbone",
        "unet:encoder=resnet18",
        "--steps",
        "1",
        "--task",
        "reconstruct_next:t=2",
        "--batch-size",
        "4",
    )
    told = done(ssmtl("run", "--data", scans, "--size", size, *words, "--out", "run")).stderr
    assert ("its deepest maps are 1 x 1 pixels; choose a larger one" in told) is noted
