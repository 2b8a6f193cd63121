"""Predictions lie on the grid of their scans, hold the values of the labels, and agree with the reported scores."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

import ssmtl_toolkit as toolkit
from helpers.places import shared_data
from helpers.small import write_pair, write_scan
from ssmtl_toolkit import DataError, SsmtlError, UsageError
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.downstream.meaning import Exclusive
from ssmtl_toolkit.downstream.model import ModelSpec, Predictor
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec


class Through(nn.Module):
    """Gives on what it is given."""

    def forward(self, given):
        return given[-1] if isinstance(given, list) else [given]


class Nothing(BackboneSpec):
    """The image itself as dense map."""

    name: ClassVar[str] = "nothing"

    def build(self, in_channels):
        return Backbone(Through(), Through(), in_channels, in_channels, in_channels)


class Identity(Head):
    def forward(self, features):
        return features.dense

    def loss(self, maps, target):
        return maps.mean()


class Bright(Identity):
    """Class 1 where a slice is above its mean."""

    def forward(self, features):
        return torch.cat([torch.zeros_like(features.dense), features.dense], dim=1)


class IdentitySpec(HeadSpec):
    """Gives the slice back."""

    name: ClassVar[str] = "identity"
    output: ClassVar[str] = "image"

    def build(self, backbone, classes):
        return Identity()


class BrightSpec(HeadSpec):
    """Marks what is brighter than its slice's mean."""

    name: ClassVar[str] = "bright"

    def build(self, backbone, classes):
        return Bright()


def predictor(head, axis, size, batch_size=5, volume=0, channels=1):
    classes = Classes.of_values([7]) if head.output == "labels" else None
    model_spec = ModelSpec(Nothing(), head, Slicing(axis=axis, size=size, volume=volume), classes, channels)
    return Predictor(
        model_spec, [model_spec.build()], make_fabric(RunConfig(accelerator="cpu"), Progress()), batch_size
    )


def odd_scans():
    folder = shared_data() / "odd"
    names = [
        *("nibabel_tests/anatomical.nii", "nibabel_tests/functional.nii", "nibabel_tests/example4d.nii.gz"),
        *("nibabel_tests/nifti2.nii.gz", "nibabel_tests/minc1_1_scale.nii", "nibabel_tests/reoriented_anat_moved.nii"),
    ]
    found = [folder / name for name in names if (folder / name).is_file()]
    found += sorted((folder / "sct_testing_data").rglob("t2*.nii.gz"))[:3]
    return found + sorted((folder / "totalsegmentator_tests").rglob("*.nii.gz"))[:3]


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_an_identity_head_gives_every_voxel_back_at_its_place_on_flipped_and_permuted_grids(tmp_path, axis):
    rng = np.random.default_rng(0)
    array = rng.normal(300, 80, (16, 16, 16)).astype(np.float32)
    for i, turn in enumerate(("LPS", "RAS", "SRP", "AIL", "IPR")):
        ornt = nib.orientations.axcodes2ornt(turn)
        affine = nib.orientations.inv_ornt_aff(ornt, array.shape) @ np.diag([0.7, 0.9, 2, 1])
        angle = np.deg2rad(12)
        tilt = np.array([[1, 0, 0, 5], [0, np.cos(angle), -np.sin(angle), 0], [0, np.sin(angle), np.cos(angle), -9]])
        file = tmp_path / f"{i}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.vstack([tilt, [0, 0, 0, 1]]) @ affine), file)
        volume = installed_readers().read(file)
        given = predictor(IdentitySpec(), axis, 16).image(volume)
        assert given.shape == array.shape
        assert np.abs(given - array).max() < 0.01
        two = np.stack([array, 5 - 2 * array], axis=-1)
        given = predictor(IdentitySpec(), axis, 16, channels=2).image(replace(volume, array=two))
        assert given.shape == two.shape
        assert np.abs(given - two).max() < 0.02


@pytest.mark.parametrize("axis", ["axial", "sagittal", "acquisition"])
def test_odd_real_scans_keep_their_grid_and_bright_voxels_their_place(axis):
    files = odd_scans()
    if not files:
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    for file in files:
        volume = installed_readers().read(file, 0)
        image = predictor(IdentitySpec(), axis, 64).image(volume)
        bright = predictor(BrightSpec(), axis, 64).labels(volume)
        assert image.shape == bright.shape == volume.array.shape
        varied = volume.array.std() > 0
        if min(volume.array.shape) > 8 and varied:  # resized to 64 x 64 and back: blurred, but at its place
            assert np.corrcoef(image.ravel(), volume.array.ravel())[0, 1] > 0.8, file.name


def test_bright_voxels_are_marked_exactly_where_a_slices_mean_is_passed(tmp_path):
    volume = installed_readers().read(write_pair(tmp_path, "x", slices=9))
    index = predictor(BrightSpec(), "axial", 32).labels(volume)
    means = volume.array.mean(axis=(0, 1), keepdims=True, dtype=np.float64)
    assert np.array_equal(index, (volume.array > means).astype(np.uint8))


def test_the_number_of_slices_in_a_batch_changes_nothing(tuned, labelled):
    volume = installed_readers().read(labelled / "images" / "a_pre.nii.gz")
    model_spec, model = ModelSpec.load(tuned / "pretrained-0" / "model.safetensors")
    fabric = make_fabric(RunConfig(accelerator="cpu"), Progress())
    results = [Predictor(model_spec, [model], fabric, size).labels(volume) for size in (1, 4, 9, 64)]
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert len(np.unique(results[0])) > 1


def test_a_model_that_is_saved_and_loaded_predicts_the_same(tuned, labelled):
    model_spec, model = ModelSpec.load(tuned / "pretrained-0" / "model.safetensors")
    _, again = ModelSpec.load(tuned / "pretrained-0" / "model.safetensors")
    assert model_spec.classes.names == ("big", "small")
    image = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model.eval()(image), again.eval()(image))


def test_label_files_open_on_their_scans_with_the_values_of_the_training_labels(tuned, labelled, ssmtl, tmp_path):
    done = ssmtl("predict", "--from", tuned, labelled, "-o", "out", "--json", "--probabilities", "--overlay")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["written"]) == 10
    assert result["slices"] == 100
    for image in sorted((labelled / "images").iterdir()):
        source, label = nib.load(image), nib.load(tmp_path / "out" / image.name)
        assert label.shape == source.shape
        assert np.array_equal(label.affine, source.affine)
        assert label.get_data_dtype() == np.uint8
        values = np.asanyarray(label.dataobj)
        assert set(np.unique(values)) <= {0, 10, 20}
        chances = nib.load(tmp_path / "out" / image.name.replace(".nii", "_probabilities.nii"))
        assert chances.shape == (*source.shape, 3)
        array = np.asanyarray(chances.dataobj)
        assert array.sum(axis=-1) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(np.array([0, 10, 20])[array.argmax(axis=-1)], values)
        assert (tmp_path / "out" / image.name.replace(".nii.gz", ".png")).read_bytes()[:4] == b"\x89PNG"
    assert 10 in values
    assert not list((tmp_path / "out").glob(".*"))


def test_python_gets_the_files_the_scans_that_failed_and_what_json_prints(tuned, labelled, ssmtl, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    scans = [labelled / "images" / "a_pre.nii.gz", tmp_path / "broken.nii.gz"]
    predicted = toolkit.predict(tuned, scans, out="out")
    assert predicted.written == (Path("out/a_pre.nii.gz"),)
    assert [item.name for item in predicted.failed] == ["broken"]
    assert "broken.nii.gz: is" in predicted.failed[0].reason
    assert (predicted.skipped, predicted.slices) == ((), 10)
    assert [member.name for member in predicted.models] == ["pretrained-0", "pretrained-1"]
    assert predicted.classes.names == ("big", "small")
    assert 0 < predicted.seconds_of_network < predicted.seconds
    printed = json.loads(ssmtl("predict", "--from", tuned, *scans, "-o", "again", "--json").stdout)
    again = {key: printed[key] for key in ("seconds", "seconds_of_network", "out", "written")}
    assert {**predicted.summary, **again} == printed
    assert list(predicted.summary) == [
        *("model", "models", "head", "classes", "digest", "out", "written", "failed", "skipped"),
        *("slices", "seconds", "seconds_of_network"),
    ]
    scored = toolkit.evaluate(predicted, labelled / "labels", surface=False)  # it stands for its folder
    assert [scan.name for scan in scored.scans] == ["a_pre"]


def test_evaluating_the_files_gives_the_scores_of_the_fine_tuning(tuned, labelled, ssmtl, tmp_path):
    scores = json.loads((tuned / "pretrained-0" / "scores.json").read_text())
    tested = [labelled / "images" / f"{scan['name']}.nii.gz" for scan in scores["scans"]]
    assert ssmtl("predict", "--from", tuned / "pretrained-0", *tested, "-o", "out").returncode == 0
    done = ssmtl("evaluate", "--pred", "out", "--label", labelled / "labels", "--no-surface", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["mean"] == pytest.approx(scores["mean"])
    assert {name: one["iou"] for name, one in found["classes"].items()} == pytest.approx(
        {name: one["iou"] for name, one in scores["classes"].items()}
    )


def test_the_largest_component_alone_is_kept(tuned, labelled, tmp_path):
    from scipy import ndimage

    for keep in (False, True):
        toolkit.predict(tuned, labelled, out=tmp_path / str(keep), largest_component=keep)
    parts = dict.fromkeys((False, True), 0)
    for keep in parts:
        for file in (tmp_path / str(keep)).glob("*.nii.gz"):
            array = np.asanyarray(nib.load(file).dataobj)
            for value in (10, 20):
                parts[keep] += max(ndimage.label(array == value, np.ones((3, 3, 3)))[1] - 1, 0)
    assert parts[True] == 0


@pytest.mark.slow
def test_denoised_scans_are_in_the_units_of_the_scan(labelled, pretrained, tmp_path):
    options = {
        "steps": 60,
        "lr": 5e-3,
        "test_scans": 2,
        "surface": False,
        "recipe": "paper",
        "head": "denoising:sigma=0.3",
    }
    tuned = toolkit.finetune(pretrained, data=str(labelled), out=tmp_path / "f", **options)
    file = labelled / "images" / "a_pre.nii.gz"
    toolkit.predict(tuned, file, out=tmp_path / "out", head="denoising")
    source, given = nib.load(file), nib.load(tmp_path / "out" / "a_pre.nii.gz")
    assert np.array_equal(source.affine, given.affine)
    assert given.get_data_dtype() == np.float32
    before, after = source.get_fdata(), given.get_fdata()
    assert abs(before.mean() - after.mean()) < 3
    assert 0.6 < after.std() / before.std() < 1.3
    with pytest.raises(UsageError, match=r"--overlay is for labels"):
        toolkit.predict(tuned, file, out=tmp_path / "out2", overlay=True)


def test_an_unreadable_scan_does_not_stop_the_others_and_ends_with_exit_code_3(tuned, labelled, ssmtl, tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(labelled / "images", folder)
    (folder / "broken.nii.gz").write_bytes(b"no scan")
    nib.save(nib.Nifti1Image(np.full((8, 8, 4), 3, np.int16), np.eye(4)), folder / "blank.nii.gz")
    done = ssmtl("predict", "--from", tuned, folder, "-o", "out", "--json")
    assert done.returncode == 3
    result = json.loads(done.stdout)
    assert len(result["written"]) == 10
    assert [item["scan"] for item in result["failed"]] == ["blank", "broken"]
    assert "broken.nii.gz: is" in done.stderr
    assert "2 of 12 scans could not be used" in done.stderr


def test_what_is_no_scan_is_named_once_with_what_it_is(tuned, ssmtl, tmp_path):
    for name, what in {"notes.md": "is a document, and no scan", "list.yaml": "is YAML, and no scan"}.items():
        (tmp_path / name).write_text("a: 1")
        done = ssmtl("predict", "--from", tuned, name, "-o", "out")
        assert done.returncode == 3
        assert done.stderr.count(f"{name}: {what}") == 1
        assert done.stderr.endswith("error: 1 of 1 scans could not be used, as noted\n")


def test_nothing_is_overwritten_unless_asked(tuned, labelled, ssmtl, tmp_path):
    file = labelled / "images" / "a_pre.nii.gz"
    assert ssmtl("predict", "--from", tuned, file, "-o", "out").returncode == 0
    before = (tmp_path / "out" / "a_pre.nii.gz").stat().st_mtime_ns
    done = ssmtl("predict", "--from", tuned, file, "-o", "out")
    assert done.returncode == 2
    assert "a_pre.nii.gz: already exists (1 of 1 files do)" in done.stderr
    other = labelled / "images" / "b_pre.nii.gz"
    done = ssmtl("predict", "--from", tuned, file, other, "-o", "out", "--existing", "skip", "--json")
    assert len(json.loads(done.stdout)["written"]) == 1
    assert (tmp_path / "out" / "a_pre.nii.gz").stat().st_mtime_ns == before
    assert ssmtl("predict", "--from", tuned, file, "-o", "out", "--existing", "overwrite").returncode == 0
    assert (tmp_path / "out" / "a_pre.nii.gz").stat().st_mtime_ns > before


def test_a_scan_whose_slices_lie_far_otherwise_than_those_of_the_training_gets_a_note(tuned, labelled, ssmtl, tmp_path):
    other = write_pair(tmp_path / "thick", "thick", affine=np.diag([-0.8, -0.8, 8.0, 1.0]))
    done = ssmtl("predict", "--from", tuned, other, "--out", "other")
    assert "its slices are 8 mm apart, those of the training 2 mm" in done.stderr
    done = ssmtl("predict", "--from", tuned, labelled / "images" / "a_pre.nii.gz", "--out", "same")
    assert "apart" not in done.stderr


def test_scans_are_never_written_over(tuned, ssmtl, tmp_path):
    write_scan(tmp_path / "x.nii.gz")
    before = (tmp_path / "x.nii.gz").read_bytes()
    done = ssmtl("predict", "--from", tuned, "x.nii.gz", "-o", ".", "--existing", "overwrite")
    assert done.returncode == 2
    assert "would be overwritten" in done.stderr
    assert (tmp_path / "x.nii.gz").read_bytes() == before


def test_predictions_below_the_folder_of_the_scans_are_not_predicted_again(tuned, ssmtl, tmp_path):
    write_scan(tmp_path / "x.nii.gz")
    assert ssmtl("predict", "--from", tuned, ".", "-o", "out").returncode == 0
    done = ssmtl("predict", "--from", tuned, ".", "-o", "out", "--existing", "overwrite", "--json")
    assert [file.rpartition("/")[2] for file in json.loads(done.stdout)["written"]] == ["x.nii.gz"]
    assert not (tmp_path / "out" / "out").exists()


def test_two_scans_of_one_name_are_refused(tuned, ssmtl, tmp_path):
    write_scan(tmp_path / "a" / "x.nii.gz")
    write_scan(tmp_path / "b" / "x.nii.gz", seed=1)
    done = ssmtl("predict", "--from", tuned, "a", "b", "-o", "out")
    assert done.returncode == 2
    assert "predict them into two folders" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--from", "nothing", "x.nii.gz", "-o", "out"], 2, "no such file or folder"),
        (["--from", ".", "x.nii.gz", "-o", "out"], 2, "holds no fine-tuned model"),
        (["--from", "TUNED", "missing.nii.gz", "-o", "out"], 3, "missing.nii.gz: no such file"),
        (["--from", "TUNED", "x.nii.gz", "-o", "out", "--head", "denoising"], 2, "is a model for 'segmentation'"),
        (["--from", "TUNED", "-o", "out"], 2, "SCANS"),
        (["--from", "junk.safetensors", "x.nii.gz", "-o", "out"], 3, "is not a model of ssmtl finetune"),
    ],
)
def test_wrong_use_is_told(tuned, ssmtl, tmp_path, arguments, code, said):
    write_scan(tmp_path / "x.nii.gz")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    done = ssmtl("predict", *[tuned if argument == "TUNED" else argument for argument in arguments])
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_a_pretraining_is_not_taken_for_a_model(pretrained, ssmtl, tmp_path):
    write_scan(tmp_path / "x.nii.gz")
    done = ssmtl("predict", "--from", pretrained, "x.nii.gz", "-o", "out")
    assert done.returncode == 2
    assert "give the run folder of ssmtl finetune" in done.stderr


def test_a_4d_file_needs_its_volume_chosen(tuned, ssmtl, tmp_path):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(20, 18, 6, 3)), np.eye(4)), tmp_path / "x.nii.gz")
    done = ssmtl("predict", "--from", tuned, "x.nii.gz", "-o", "out")
    assert done.returncode == 3
    assert "--volume" in done.stderr
    assert ssmtl("predict", "--from", tuned, "x.nii.gz", "-o", "out", "--volume", 1).returncode == 0
    assert nib.load(tmp_path / "out" / "x.nii.gz").shape == (20, 18, 6)


def test_a_blank_scan_is_refused_from_python(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 4), np.int16), np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(DataError, match="is blank"):
        predictor(BrightSpec(), "axial", 16).labels(installed_readers().read(tmp_path / "x.nii.gz"))


def test_a_folder_with_nothing_but_earlier_predictions_is_refused(tuned, ssmtl, tmp_path):
    write_scan(tmp_path / "scans" / "out" / "x.nii.gz")
    done = ssmtl("predict", "--from", tuned, "scans", "-o", "scans/out", "--existing", "overwrite")
    assert done.returncode == 3
    assert "no scan to predict in scans" in done.stderr


def test_a_link_to_itself_and_earlier_predictions_do_not_stop_a_folder(tuned, ssmtl, tmp_path):
    write_scan(tmp_path / "scans" / "x.nii.gz")
    write_scan(tmp_path / "scans" / "done" / "y.nii.gz")
    write_scan(tmp_path / "scans" / "done" / "p7" / "t1.nii.gz")
    (tmp_path / "scans" / "done" / "prediction.json").write_text("{}")
    (tmp_path / "scans" / "loop.nii.gz").symlink_to("loop.nii.gz")
    done = ssmtl("predict", "--from", tuned, "scans", "-o", "out", "--json")
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert [file.rpartition("/")[2] for file in told["written"]] == ["x.nii.gz"]
    assert ["lies below a prediction.json" in scan["reason"] for scan in told["skipped"]] == [True, True]
    assert "loop.nii.gz" in done.stderr
    again = ssmtl("predict", "--from", tuned, "scans/x.nii.gz", "-o", "out", "--existing", "skip")
    assert "0 scans, 1 skipped" in again.stderr


@pytest.fixture
def pair(tuned, labelled, ssmtl, tmp_path):
    """Two scans of which the first is predicted by the first of two models, and a call for more."""
    for name in "ab":
        shutil.copy(labelled / "images" / f"{name}_pre.nii.gz", tmp_path / f"{name}.nii.gz")

    def call(model, *options):
        return ssmtl("predict", "--from", tuned / f"pretrained-{model}", *options)

    assert call(0, "a.nii.gz", "-o", "out", "--overlay").returncode == 0
    return call


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("existing", ["error", "skip", "overwrite"])
def test_predictions_of_two_models_are_never_mixed_in_a_folder(pair, tmp_path, existing):
    before = contents(tmp_path / "out")
    done = pair(1, "b.nii.gz", "-o", "out", "--existing", existing)
    assert done.returncode == 2
    assert "out: holds predictions of another model (a.nii.gz)" in done.stderr
    assert contents(tmp_path / "out") == before


def test_skip_refuses_what_another_model_has_written_and_overwrite_replaces_it(pair, tmp_path, labelled, ssmtl):
    done = pair(1, "a.nii.gz", "b.nii.gz", "-o", "out", "--existing", "skip", "--overlay")
    assert done.returncode == 2
    assert "was not written by this model" in done.stderr
    assert "--existing overwrite" in done.stderr
    done = pair(1, "a.nii.gz", "b.nii.gz", "-o", "out", "--existing", "overwrite")
    assert (done.returncode, "out/a.png: belongs to the prediction" in done.stderr) == (2, True)
    assert pair(1, "a.nii.gz", "b.nii.gz", "-o", "out", "--existing", "overwrite", "--overlay").returncode == 0
    assert pair(1, "a.nii.gz", "b.nii.gz", "-o", "new", "--overlay").returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


@pytest.mark.parametrize("existing", ["error", "skip", "overwrite"])
def test_a_picture_of_another_model_is_not_left_beside_a_new_prediction(pair, tmp_path, existing):
    (tmp_path / "out" / "a.nii.gz").unlink()
    done = pair(1, "a.nii.gz", "-o", "out", "--existing", existing)
    assert (done.returncode, "out/a.png: belongs to the prediction" in done.stderr) == (2, True)


def damage(tmp_path):
    file = tmp_path / "out" / "a.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])


def change_scan(tmp_path):
    shutil.copy(tmp_path / "b.nii.gz", tmp_path / "a.nii.gz")


def forget(tmp_path):
    (tmp_path / "out" / "prediction.json").unlink()


@pytest.mark.parametrize(
    ("before", "options", "said"),
    [
        (damage, [], "was changed since it was written, or is damaged"),
        (change_scan, [], "belongs to another scan, or to this one before it was changed"),
        (forget, [], "is not known to be from this model"),
        (lambda _: None, ["--largest-component"], "was written with another --largest-component"),
        (lambda _: None, ["--volume", 0], "was written with another --volume"),
        (lambda _: None, ["--precision", "32"], "was written with another --precision"),
    ],
)
def test_skip_refuses_all_but_what_this_model_wrote_whole_from_this_scan(pair, tmp_path, before, options, said):
    before(tmp_path)
    kept = contents(tmp_path / "out")
    done = pair(0, "a.nii.gz", "b.nii.gz", "-o", "out", "--existing", "skip", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert contents(tmp_path / "out") == kept
    assert pair(0, "a.nii.gz", "-o", "out", "--existing", "overwrite", "--overlay", *options).returncode == 0


def test_skip_makes_what_is_missing_beside_a_prediction_and_no_more(pair, tmp_path):
    done = pair(0, "a.nii.gz", "-o", "out", "--existing", "skip", "--probabilities", "--overlay", "--json")
    assert [name.rpartition("/")[2] for name in json.loads(done.stdout)["written"]] == ["a.nii.gz"]
    kept = contents(tmp_path / "out")
    assert {"a_probabilities.nii.gz", "a.png"} <= set(kept)
    for wanted in ([], ["--overlay"], ["--probabilities"]):
        done = pair(0, "a.nii.gz", "-o", "out", "--existing", "skip", "--json", *wanted)
        assert json.loads(done.stdout)["written"] == []
    (tmp_path / "out" / "a.nii.gz").unlink()
    assert pair(0, "a.nii.gz", "-o", "out", "--existing", "skip").returncode == 0
    assert contents(tmp_path / "out") == kept


def test_prediction_json_says_of_every_file_what_it_is_of(pair, tmp_path, tuned):
    from hashlib import sha256

    assert pair(0, "b.nii.gz", "-o", "out").returncode == 0
    said = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert {"model", "head", "classes"} <= set(said)
    assert set(said["files"]) == {"a.nii.gz", "b.nii.gz"}
    digest = weights.read(tuned / "pretrained-0" / "model.safetensors", "").digest
    assert digest == said["digest"]
    for name, record in said["files"].items():
        assert record["model"] == digest
        assert record["scan"] == sha256((tmp_path / name).read_bytes()).hexdigest()
        files = contents(tmp_path / "out")
        assert record["files"] == {file: sha256(files[file]).hexdigest() for file in record["files"]}
    assert set(said["files"]["a.nii.gz"]["files"]) == {"a.nii.gz", "a.png"}


class Acting(Bright):
    """Does something in each forward pass, of which there is one for each scan here."""

    passes: ClassVar[int] = 0

    def forward(self, features):
        Acting.passes += 1
        self.act(Acting.passes)
        return super().forward(features)


class ActingSpec(HeadSpec):
    """Marks what is bright, and does something."""

    name: ClassVar[str] = "acting"

    def build(self, backbone, classes):
        return Acting()


@pytest.fixture
def acting(tmp_path, labelled, monkeypatch):
    """Predict three scans; `act` is called in the network, with the number of the scan."""
    model_spec = ModelSpec(Nothing(), ActingSpec(), Slicing(size=16), Classes.of_values([7]), 1)
    model_spec.save(tmp_path / "model.safetensors", model_spec.build(), {})
    scans = [labelled / "images" / f"{name}_pre.nii.gz" for name in "abc"]

    def call(act, **options):
        monkeypatch.setattr(Acting, "act", staticmethod(act), raising=False)
        monkeypatch.setattr(Acting, "passes", 0)
        model, out = tmp_path / "model.safetensors", tmp_path / "out"
        return toolkit.predict(model, scans, out=out, cache=tmp_path / "cache", spec=[Nothing, ActingSpec], **options)

    return call


def test_a_prediction_is_written_while_the_network_works_on_the_next_scan(acting, tmp_path):
    (tmp_path / "out").mkdir()
    folder, written = os.open(tmp_path / "out", os.O_RDONLY), []

    def act(number):
        if number == 1:
            fcntl.flock(folder, fcntl.LOCK_EX)  # what is to be written is announced first, alone
        else:
            written.append(len(list((tmp_path / "out").glob("*.nii.gz"))))
            fcntl.flock(folder, fcntl.LOCK_UN)

    assert len(acting(act).written) == 3
    os.close(folder)
    assert written[0] == 0


@pytest.fixture
def read(monkeypatch):
    """The names of the scans that were read so far."""
    names, usual = [], Readers.read_scan

    def noted(readers, scan, volume=None):
        names.append(scan.path.name)
        return usual(readers, scan, volume)

    monkeypatch.setattr(Readers, "read_scan", noted)
    return names


def test_the_next_scan_is_read_while_the_network_works_and_no_further_one(acting, read):
    seen = []

    def act(number):
        end = time.monotonic() + 20
        while len(read) < min(number + 1, 3) and time.monotonic() < end:
            time.sleep(0.01)
        seen.append(list(read))

    acting(act)
    assert seen == [["a_pre.nii.gz", "b_pre.nii.gz"], *[["a_pre.nii.gz", "b_pre.nii.gz", "c_pre.nii.gz"]] * 2]


@pytest.mark.parametrize(("free", "options"), [(0, {}), (10**12, {"probabilities": True})])
def test_a_scan_that_takes_much_memory_or_room_on_the_disk_is_alone(acting, read, free, options, monkeypatch):
    monkeypatch.setattr("ssmtl_toolkit.downstream.predict.free_memory", lambda: free)
    seen = []
    acting(lambda number: seen.append(len(read)), **options)
    assert seen == [1, 2, 3]


def test_what_the_network_works_on_when_it_is_interrupted_is_written(acting, tmp_path):
    with pytest.raises(SsmtlError, match="2 of 3 scans are done"):
        acting(lambda number: number == 2 and os.kill(os.getpid(), signal.SIGINT))
    assert sorted(contents(tmp_path / "out")) == ["a_pre.nii.gz", "b_pre.nii.gz", "prediction.json"]
    assert len(json.loads((tmp_path / "out" / "prediction.json").read_text())["files"]) == 2


def test_a_prediction_that_cannot_be_written_ends_all_before_the_next_one_is(acting, tmp_path):
    (tmp_path / "out" / "a_pre.nii.gz").mkdir(parents=True)
    with pytest.raises(SsmtlError, match=r"a_pre\.nii\.gz: the labels cannot be written"):
        acting(lambda number: None, existing="overwrite")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_pre.nii.gz", "prediction.json"]
    (tmp_path / "out" / "a_pre.nii.gz").rmdir()
    assert len(acting(lambda number: None, existing="skip").written) == 3


class Recorded(Progress):
    def __init__(self):
        self.events = []

    def note(self, text):
        self.events.append(text)

    def prepared(self, name):
        self.events.append(name)


def test_what_is_said_of_scans_comes_in_their_order(tuned, labelled, tmp_path):
    for name in "ad":
        shutil.copy(labelled / "images" / f"{name}_pre.nii.gz", tmp_path / f"{name}.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(b"no scan")
    odd = nib.load(tmp_path / "a.nii.gz")
    odd.header.set_sform(None, 0)
    odd.header.set_qform(None, 0)
    nib.save(nib.Nifti1Image(odd.get_fdata(), None, odd.header), tmp_path / "c.nii.gz")
    scans = [tmp_path / f"{name}.nii.gz" for name in "abcd"]
    toolkit.predict(tuned, scans, out=tmp_path / "out", progress=(progress := Recorded()))
    words = [event.removeprefix(f"{tmp_path}/")[:12] for event in progress.events]
    assert words == ["a", "b.nii.gz: is", "b", "c.nii.gz: ha", "c", "d"]


class Stops(Progress):
    """Does something when the first scan is done."""

    def __init__(self, act):
        self.act = act

    def prepared(self, name):
        self.act()


def test_an_interrupted_prediction_is_continued_and_ends_as_an_uninterrupted_one(tuned, labelled, tmp_path):
    scans = labelled / "images"
    with pytest.raises(SsmtlError, match="1 of 10 scans are done"):
        toolkit.predict(tuned, scans, out=tmp_path / "cut", progress=Stops(lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert len(json.loads((tmp_path / "cut" / "prediction.json").read_text())["files"]) == 1
    done = toolkit.predict(tuned, scans, out=tmp_path / "cut", existing="skip")
    assert (len(done.written), [item.name for item in done.skipped]) == (9, ["a_post"])
    toolkit.predict(tuned, scans, out=tmp_path / "whole")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_prediction_is_continued_too(tuned, labelled, tmp_path):
    """A kill leaves predictions that are announced and not yet recorded as written."""
    code = (
        "import os, signal, sys; import ssmtl_toolkit as toolkit; from ssmtl_toolkit.runtime.progress import Progress\n"
        "class Killed(Progress):\n"
        "    def prepared(self, name): os.kill(os.getpid(), signal.SIGKILL)\n"
        "toolkit.predict(sys.argv[1], sys.argv[2], out=sys.argv[3], progress=Killed())"
    )
    out = tmp_path / "cut"
    done = subprocess.run([sys.executable, "-c", code, str(tuned), str(labelled / "images"), str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [file.name for file in out.glob("*.nii.gz")] == ["a_post.nii.gz"]
    toolkit.predict(tuned, labelled / "images", out=out, existing="skip")
    toolkit.predict(tuned, labelled / "images", out=tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_scan_that_fails_while_overwriting_leaves_its_old_prediction_known(pair, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no scan")
    before = json.loads((tmp_path / "out" / "prediction.json").read_text())["files"]
    done = pair(0, "a.nii.gz", "b.nii.gz", "-o", "out", "--existing", "overwrite", "--overlay")
    assert done.returncode == 3
    after = json.loads((tmp_path / "out" / "prediction.json").read_text())["files"]
    assert after["a.nii.gz"] == before["a.nii.gz"]
    assert set(after) == {"a.nii.gz", "b.nii.gz"}


@pytest.mark.slow
def test_two_processes_may_share_the_scans_of_a_folder(tuned, labelled, tmp_path):
    code = "import sys; import ssmtl_toolkit as toolkit; toolkit.predict(sys.argv[1], sys.argv[3:], out=sys.argv[2])"
    scans = sorted(map(str, (labelled / "images").iterdir()))
    command = [sys.executable, "-c", code, str(tuned), str(tmp_path / "out")]
    both = [subprocess.Popen([*command, *scans[i::2]]) for i in (0, 1)]
    assert [process.wait(300) for process in both] == [0, 0]
    assert len(json.loads((tmp_path / "out" / "prediction.json").read_text())["files"]) == 10
    assert toolkit.predict(tuned, scans, out=tmp_path / "out", existing="skip").written == ()


def test_predictions_of_version_0_1_0_are_of_an_unknown_model(pair, tmp_path):
    file = tmp_path / "out" / "prediction.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({key: said[key] for key in ("model", "head", "classes")}))
    done = pair(0, "b.nii.gz", "-o", "out")
    assert (done.returncode, "holds predictions of an unknown model" in done.stderr) == (2, True)
    assert pair(0, "a.nii.gz", "-o", "out", "--existing", "overwrite", "--overlay").returncode == 0
    assert pair(0, "b.nii.gz", "-o", "out").returncode == 0


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": {"a": {"model": 3}}}', "[" * 100_000])
def test_a_damaged_prediction_json_is_refused_by_name(pair, tmp_path, text):
    (tmp_path / "out" / "prediction.json").write_text(text)
    for existing in ("error", "skip", "overwrite"):
        done = pair(0, "b.nii.gz", "-o", "out", "--existing", existing)
        assert done.returncode == 3
        assert "out/prediction.json: cannot be read" in done.stderr


def test_a_name_given_twice_fails_alone(tuned, ssmtl, tmp_path):
    write_scan(tmp_path / "scans" / "x.nii.gz")
    write_scan(tmp_path / "others" / "x.nii.gz", seed=1)
    write_scan(tmp_path / "scans" / "y.nii.gz", seed=2)
    done = ssmtl("predict", "--from", tuned, "scans", "others", "-o", "out", "--json")
    assert done.returncode == 3
    result = json.loads(done.stdout)
    assert result["written"] == ["out/y.nii.gz"]
    assert "would both be written to out/x.nii.gz" in result["failed"][0]["reason"]


@pytest.mark.parametrize("number", [2, 8, 40, 300])
def test_of_equal_maps_the_first_is_the_class_however_many_there_are(number):
    maps = torch.randn(2, number, 9, 7, generator=torch.Generator().manual_seed(0)).round()
    maps[0, :, 0, 0], maps[0, :, 0, 1], maps[0, 0, 0, 2] = 0.0, -torch.inf, -torch.inf
    first = torch.from_numpy(maps.numpy().argmax(axis=1))
    assert torch.equal(Exclusive(number).index(maps), first)
    assert torch.equal(Exclusive(number).index(maps.requires_grad_()), first)
    maps.data[1, 1, 3, 3] = torch.nan
    assert torch.equal(Exclusive(number).index(maps), maps.max(dim=1).indices)
