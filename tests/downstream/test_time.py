"""From cine to 4-D predictions and their scores: run, finetune, predict, evaluate with --axis time."""

import json

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import ssmtl_toolkit as ssmtl
from helpers.cine import write_4d, write_cine
from helpers.small import SMALL
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.inspection.info import data_info


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cine(tmp_path_factory.mktemp("cine"), "abcd", frames=6, slices=2, labelled=(0, 3))


@pytest.fixture(scope="module")
def run(folder):
    return ssmtl.pretrain(
        data=str(folder / "images"),
        axis="time",
        backbone=SMALL,
        tasks=["reconstruct_prev:t=auto", "reconstruct_next:t=80ms", "contrast:near=40ms"],
        size=32,
        steps=3,
        out=folder / "run",
        cache=folder / "cache",
    )


@pytest.fixture(scope="module")
def tuned(folder, run):
    return ssmtl.finetune(
        data=str(folder),
        source=run.backbone,
        steps=8,
        test_scans=1,
        validation_scans=1,
        slices_per_scan=3,
        surface=False,
        out=folder / "tuned",
        cache=folder / "cache",
    )


def test_a_run_learns_from_frames_ms_apart_and_writes_down_the_t_it_found(run):
    summary = run.summary
    assert summary["stacks"]["ms"] == [40.0, 40.0, 40.0]
    labels = list(summary["pairs"])
    assert labels[0] == "reconstruct_prev:t=2"
    assert summary["pairs"]["reconstruct_next:t=80ms"]["ms"] == [80.0, 80.0]
    assert summary["pairs"]["reconstruct_next:t=80ms"]["share"] == pytest.approx(4 / 6)


def test_only_annotated_frames_are_trained_on_and_scored(tuned, folder):
    slices = json.loads((tuned.folder / "split.json").read_text())["slices"][0]
    assert all(row % 6 in (0, 3) for rows in slices.values() for row in rows)
    assert "4 of 6 frames have no label" in (tuned.folder / "summary.json").read_text()


def test_predictions_go_back_as_4d_and_score_as_the_fine_tuning_did(tuned, folder):
    (name,) = json.loads((tuned.folder / "split.json").read_text())["test"]
    predicted = ssmtl.predict(
        tuned, folder / "images" / f"{name}.nii.gz", out=folder / "pred", cache=folder / "cache", probabilities=True
    )
    assert not predicted.failed
    image, source = (nib.load(folder / part / f"{name}.nii.gz") for part in ("pred", "images"))
    assert image.shape == source.shape
    assert image.header.get_zooms() == source.header.get_zooms()
    assert image.header.get_xyzt_units() == ("mm", "msec")
    maps = nib.load(folder / "pred" / f"{name}_probabilities.nii.gz").get_fdata()
    assert_array_equal(maps.argmax(axis=-1), np.asarray(image.dataobj))
    scores = ssmtl.evaluate(folder / "pred", folder / "labels", surface=False)
    assert scores.mean["dice"] == pytest.approx(tuned.summary["arms"]["pretrained"]["dice"]["mean"])


def test_a_prediction_of_one_volume_is_scored_by_that_volume_of_4d_labels(folder, tmp_path):
    label = nib.load(folder / "labels" / "a.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[..., 3], label.affine), tmp_path / "a.nii.gz")
    files = tmp_path / "a.nii.gz", folder / "labels" / "a.nii.gz"
    assert ssmtl.evaluate(*files, volume=3, surface=False).mean["dice"] == 1
    with pytest.raises(DataError, match="is 4-D with 6 volumes"):
        ssmtl.evaluate(*files, surface=False)


@pytest.mark.parametrize(
    ("axis", "task", "said"),
    [
        ("time", "reconstruct_prev:t=5mm", "t=5mm is in mm, and with --axis time frames are ms apart; give ms"),
        ("axial", "reconstruct_prev:t=5ms", "t=5ms is in ms, and without --axis time slices are mm apart; give mm"),
        ("time", "contrast:near=5mm", "near=5mm is in mm"),
    ],
)
def test_distances_in_the_wrong_unit_are_refused_before_anything_is_read(axis, task, said):
    with pytest.raises(UsageError, match=said):
        RunConfig(data="phantom", axis=axis, tasks=(task,)).resolve()


def test_a_distance_in_ms_needs_scans_that_say_how_far_apart_their_frames_are(folder, tmp_path):
    for name in "ab":
        write_4d(tmp_path / f"{name}.nii.gz", np.asarray(nib.load(folder / "images" / f"{name}.nii.gz").dataobj), 0)
    options = {"axis": "time", "backbone": SMALL, "size": 32, "steps": 1, "cache": tmp_path / "cache"}
    with pytest.raises(DataError, match=r"a\.nii\.gz: does not say how many ms .*'reconstruct_prev:t=40ms'"):
        ssmtl.pretrain(data=str(tmp_path), tasks=["reconstruct_prev:t=40ms"], out=tmp_path / "a", **options)
    run = ssmtl.pretrain(data=str(tmp_path), tasks=["reconstruct_prev:t=1"], out=tmp_path / "b", **options)
    assert run.summary["stacks"]["ms"] == [0, 0, 0]


def test_data_info_counts_sequences_and_proposes_a_t_in_frames(folder):
    info = data_info(folder, axis="time", timed=False)
    assert not info.stops
    assert "48, 12 a scan in sequences of 6 frames, time, 40 ms apart" in str(info)
    assert info.proposals.arguments.startswith("--axis time --size 32 --task reconstruct_prev:t=2")
    (first, *_) = info.to_json()["pairs"]
    assert (first["t"], first["ms"], first["share"]) == (1, [40.0, 40.0], pytest.approx(5 / 6))


def test_a_volume_that_nobody_labelled_is_called_so(folder, tmp_path):
    options = {"volume": 2, "backbone": SMALL, "size": 32, "steps": 1, "test_scans": 1, "surface": False}
    with pytest.raises(DataError, match="has an annotated slice in volume 2; choose a --volume that is labelled"):
        ssmtl.finetune(data=str(folder), classes="ball=1", out=tmp_path / "run", cache=tmp_path / "cache", **options)
