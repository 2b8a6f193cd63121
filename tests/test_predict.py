"""Predictions lie on the grid of their scans, hold the values of the labels, and agree with the reported scores."""

import json
import shutil
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import shared_data, write_pair, write_scan
from torch import nn

import ssmtl_toolkit as toolkit
from ssmtl_toolkit import DataError, UsageError
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.labels import Classes
from ssmtl_toolkit.data.prepare import Prepare
from ssmtl_toolkit.data.reading import read_volume
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.device import make_fabric
from ssmtl_toolkit.engine.downstream import Predictor, Recipe
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.engine.pretrain import readers
from ssmtl_toolkit.engine.progress import Progress
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


def predictor(head, axis, size, batch_size=5, volume=0):
    classes = Classes.of_values([7]) if head.output == "labels" else None
    recipe = Recipe(Nothing(), head, Prepare(axis=axis, size=size, volume=volume), classes)
    return Predictor(recipe, recipe.build(), make_fabric(RunConfig(accelerator="cpu"), Progress()), batch_size)


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
        volume = read_volume(file, readers())
        given = predictor(IdentitySpec(), axis, 16).image(volume)
        assert given.shape == array.shape
        assert np.abs(given - array).max() < 0.01


@pytest.mark.parametrize("axis", ["axial", "sagittal", "acquisition"])
def test_odd_real_scans_keep_their_grid_and_bright_voxels_their_place(axis):
    files = odd_scans()
    if not files:
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    for file in files:
        volume = read_volume(file, readers(), 0)
        image = predictor(IdentitySpec(), axis, 64).image(volume)
        bright = predictor(BrightSpec(), axis, 64).labels(volume)
        assert image.shape == bright.shape == volume.array.shape
        varied = volume.array.std() > 0
        if min(volume.array.shape) > 8 and varied:  # resized to 64 x 64 and back: blurred, but at its place
            assert np.corrcoef(image.ravel(), volume.array.ravel())[0, 1] > 0.8, file.name


def test_bright_voxels_are_marked_exactly_where_a_slices_mean_is_passed(tmp_path):
    volume = read_volume(write_pair(tmp_path, "x", slices=9), readers())
    index = predictor(BrightSpec(), "axial", 32).labels(volume)
    means = volume.array.mean(axis=(0, 1), keepdims=True, dtype=np.float64)
    assert np.array_equal(index, (volume.array > means).astype(np.uint8))


def test_the_number_of_slices_in_a_batch_changes_nothing(tuned, labelled):
    volume = read_volume(labelled / "images" / "a_pre.nii.gz", readers())
    recipe, model = Recipe.load(tuned / "pretrained-0" / "model.safetensors")
    fabric = make_fabric(RunConfig(accelerator="cpu"), Progress())
    results = [Predictor(recipe, model, fabric, size).labels(volume) for size in (1, 4, 9, 64)]
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert len(np.unique(results[0])) > 1


def test_a_model_that_is_saved_and_loaded_predicts_the_same(tuned, labelled):
    recipe, model = Recipe.load(tuned / "pretrained-0" / "model.safetensors")
    _, again = Recipe.load(tuned / "pretrained-0" / "model.safetensors")
    assert recipe.classes.names == ("big", "small")
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


def test_evaluating_the_files_gives_the_scores_of_the_fine_tuning(tuned, labelled, ssmtl, tmp_path):
    scores = json.loads((tuned / "pretrained-0" / "scores.json").read_text())
    tested = [labelled / "images" / f"{scan['name']}.nii.gz" for scan in scores["scans"]]
    assert ssmtl("predict", "--from", tuned, *tested, "-o", "out").returncode == 0
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


def test_denoised_scans_are_in_the_units_of_the_scan(labelled, pretrained, tmp_path):
    options = {"steps": 60, "lr": 5e-3, "test_scans": 2, "surface": False, "head": "denoising:sigma=0.3"}
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


def test_nothing_is_overwritten_unless_asked(tuned, labelled, ssmtl, tmp_path):
    file = labelled / "images" / "a_pre.nii.gz"
    assert ssmtl("predict", "--from", tuned, file, "-o", "out").returncode == 0
    before = (tmp_path / "out" / "a_pre.nii.gz").stat().st_mtime_ns
    done = ssmtl("predict", "--from", tuned, file, "-o", "out")
    assert done.returncode == 2
    assert "is there already" in done.stderr
    other = labelled / "images" / "b_pre.nii.gz"
    done = ssmtl("predict", "--from", tuned, file, other, "-o", "out", "--existing", "skip", "--json")
    assert len(json.loads(done.stdout)["written"]) == 1
    assert (tmp_path / "out" / "a_pre.nii.gz").stat().st_mtime_ns == before
    assert ssmtl("predict", "--from", tuned, file, "-o", "out", "--existing", "overwrite").returncode == 0
    assert (tmp_path / "out" / "a_pre.nii.gz").stat().st_mtime_ns > before


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
        predictor(BrightSpec(), "axial", 16).labels(read_volume(tmp_path / "x.nii.gz", readers()))


def test_a_folder_with_nothing_but_earlier_predictions_is_refused(tuned, ssmtl, tmp_path):
    write_scan(tmp_path / "scans" / "out" / "x.nii.gz")
    done = ssmtl("predict", "--from", tuned, "scans", "-o", "scans/out", "--existing", "overwrite")
    assert done.returncode == 3
    assert "no scan to predict in scans" in done.stderr


def test_a_link_to_itself_and_earlier_predictions_do_not_stop_a_folder(tuned, ssmtl, tmp_path):
    write_scan(tmp_path / "scans" / "x.nii.gz")
    write_scan(tmp_path / "scans" / "done" / "y.nii.gz")
    (tmp_path / "scans" / "done" / "prediction.json").write_text("{}")
    (tmp_path / "scans" / "loop.nii.gz").symlink_to("loop.nii.gz")
    done = ssmtl("predict", "--from", tuned, "scans", "-o", "out", "--json")
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert [file.rpartition("/")[2] for file in told["written"]] == ["x.nii.gz"]
    assert "lies beside a prediction.json" in told["left_out"][0]["reason"]
    assert "loop.nii.gz" in done.stderr
    again = ssmtl("predict", "--from", tuned, "scans/x.nii.gz", "-o", "out", "--existing", "skip")
    assert "0 scans, 1 left out" in again.stderr
