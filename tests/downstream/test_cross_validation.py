"""Cross-validation in one command: every patient is tested once, and what is done is kept."""

from __future__ import annotations

import json
import shutil

import pytest

import ssmtl_toolkit as toolkit
from helpers.pages import check_page
from helpers.small import SMALL, write_pair
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.downstream.ensemble import Member, model_files
from ssmtl_toolkit.errors import DataError, UsageError

QUICK = {"backbone": SMALL, "size": 16, "steps": 2, "surface": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds") / "data"
    for i in range(4):
        write_pair(folder, f"p{i}", slices=5, seed=i)
    return folder


@pytest.fixture(scope="module")
def done(data):
    return toolkit.finetune(None, data=data, folds=2, out=data.parent / "cv", cache=data.parent / "cache", **QUICK)


def bits(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("model.safetensors")}


@pytest.mark.slow
def test_every_patient_is_tested_once(done):
    tested = [Split.read(done.folder / f"fold-{i}" / "split.json").test for i in range(2)]
    assert sorted(patient for fold in tested for patient in fold) == ["p0", "p1", "p2", "p3"]
    folds = json.loads((done.folder / "splits_final.json").read_text())
    assert [tuple(fold["val"]) for fold in folds] == tested
    summary = done.summary
    assert json.loads((done.folder / "summary.json").read_text()) == summary
    assert (summary["scans"]["test"], summary["scans"]["patients"]) == (4, 4)
    assert summary["arms"]["scratch"]["classes"]["10"]["dice"]["over_patients"]["n"] == 4
    each = [json.loads((done.folder / f"fold-{i}/scratch-0/scores.json").read_text())["mean"]["iou"] for i in (0, 1)]
    assert summary["arms"]["scratch"]["iou"]["values"] == each


@pytest.mark.slow
def test_its_report_is_on_the_test_scans_of_all_folds(done, tmp_path):
    page = check_page(toolkit.report(done, out=tmp_path / "page.html"))
    assert "2, each in a folder of its own" in page.text
    assert "± standard deviation over 2 folds" in page.text
    (volumes,) = [image["alt"] for image in page.images if "against the volume" in image["alt"]][:1]
    assert "scratch: 4 scans" in volumes
    assert any("fold-1/scratch-0 ends at" in image["alt"] for image in page.images)


@pytest.mark.slow
def test_a_fold_is_the_fine_tuning_of_that_fold(done, data, tmp_path):
    alone = toolkit.finetune(
        None, data=data, split=done.folder / "splits_final.json", fold=1, out=tmp_path / "one", **QUICK
    )
    assert bits(alone.folder) == bits(done.folder / "fold-1")


@pytest.mark.slow
def test_what_is_done_is_kept_wherever_the_folder_is_now(done, data, tmp_path):
    moved = shutil.copytree(done.folder, tmp_path / "moved")
    before = bits(moved)
    shutil.rmtree(moved / "fold-1")
    options = {"data": data, "out": moved, "cache": data.parent / "cache", "resume": True, **QUICK}
    again = toolkit.finetune(None, folds=2, **options)
    assert bits(moved) == before
    assert again.summary["arms"] == done.summary["arms"]
    with pytest.raises(UsageError, match="folds is 3, was 2"):
        toolkit.finetune(None, folds=3, **options)
    folds = json.loads((moved / "splits_final.json").read_text())
    (moved / "splits_final.json").write_text(json.dumps(folds[::-1]))
    with pytest.raises(UsageError, match="fold 0 has been trained or tested on other patients than"):
        toolkit.finetune(None, folds=2, **options)


@pytest.mark.slow
def test_the_models_of_all_folds_predict_together(done, data, tmp_path):
    names = [Member(file, "").name for file in model_files(done.folder)]
    assert names == ["fold-0/scratch-0", "fold-1/scratch-0"]
    predicted = toolkit.predict(done, data / "images" / "p0.nii.gz", out=tmp_path / "predictions")
    assert [model.name for model in predicted.models] == names


@pytest.mark.slow
def test_a_list_of_folds_is_trained_whole_by_the_command(data, tmp_path, ssmtl):
    folds = [{"train": ["p0"], "val": ["p1"]}, {"train": ["p1", "p2"], "val": ["p0"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    options = ["--data", data, "--size", 16, "--steps", 2, "--backbone", SMALL, "--no-surface", "--folds"]
    run = ssmtl("finetune", *options, "all", "--split", "splits_final.json", "--out", "cv")
    assert run.returncode == 0, run.stderr
    assert "2 folds of 2 patients, 1 repetition each; 2 scans, each tested once" in run.stdout + run.stderr
    assert Split.read(tmp_path / "cv" / "fold-1" / "split.json").train == ("p1", "p2")
    assert ssmtl("finetune", "--resume", "cv").returncode == 0
    wrong = ssmtl("finetune", *options, 5, "--split", "splits_final.json", "--out", "x")
    assert wrong.returncode == 2
    assert "holds 2 folds; omit --split, or give --folds all" in wrong.stderr
    assert not (tmp_path / "x").exists()


def test_what_cannot_start_leaves_no_folder(data, tmp_path):
    (tmp_path / "twice.json").write_text(
        json.dumps([{"train": ["p0"], "val": ["p1"]}, {"train": ["p2"], "val": ["p1"]}])
    )
    broken = shutil.copytree(data, tmp_path / "broken")
    (broken / "labels" / "p2.nii.gz").write_bytes(b"no label map")
    for error, message, options in (
        (UsageError, "--folds 9: there are 4 patients", {"folds": 9}),
        (
            DataError,
            "patient 'p1' is scored in fold 0 and in fold 1",
            {"folds": "all", "split": tmp_path / "twice.json"},
        ),
        (UsageError, "--folds all: takes the folds of a list", {"folds": "all"}),
        (UsageError, "omit one of them", {"folds": 2, "fold": 1, "split": tmp_path / "twice.json"}),
        (UsageError, "--test-scans: every fold tests on its own patients", {"folds": 2, "test_scans": 1}),
        (UsageError, "adamm", {"folds": 2, "optimizer": "adamm"}),
        (DataError, r"labels/p2\.nii\.gz: is not NIfTI", {"folds": 2, "data": broken}),
    ):
        with pytest.raises(error, match=message):
            toolkit.finetune(
                None, out=tmp_path / "deep" / "cv", cache=tmp_path / "cache", **{**QUICK, "data": data, **options}
            )
        assert not (tmp_path / "deep").exists()
