"""Slices are normalised by themselves, by their scan, by all scans, or by given numbers."""

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import ssmtl_toolkit as toolkit
from helpers.small import SMALL
from ssmtl_toolkit.data.levels import with_levels, written
from ssmtl_toolkit.data.prepare import prepare
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of

RNG = np.random.default_rng(0)


def volume(channels=1, constant=False):
    array = RNG.normal(100, 30, (16, 16, 5, channels)).astype("f4") * np.arange(1, 6)[None, None, :, None]
    if constant:
        array[:, :, 2] = 7
    return Volume(array if channels > 1 else array[..., 0], np.eye(4), (1.0, 1.0, 1.0))


def made(image, **options):
    return prepare(image, Slicing(size=16, axis="axial", **options)).slices.astype("f8")


def test_by_default_each_slice_has_mean_0_and_variance_1():
    slices = made(volume())
    assert np.allclose(slices.mean(axis=(1, 2, 3)), 0, atol=1e-3)
    assert np.allclose(slices.std(axis=(1, 2, 3)), 1, atol=1e-3)


def test_by_scan_the_slices_of_a_scan_keep_their_ratios():
    image = volume()
    slices = made(image, normalise="scan")
    expected = (image.array - image.array.mean()) / image.array.std()
    assert np.allclose(np.sort(slices[3, 0].ravel()), np.sort(expected[:, :, 3].ravel()), atol=5e-3)
    assert abs(slices.mean()) < 1e-3
    assert slices.std() == pytest.approx(1, abs=1e-3)


def test_given_numbers_are_used_for_each_channel_after_the_window():
    image = volume(channels=2)
    slices = made(image, normalise="100/30+-5/25.0", window=(0.0, 200.0))
    for c, (mean, deviation) in enumerate([(100, 30), (-5, 25)]):
        expected = (image.array[..., c].clip(0, 200) - mean) / deviation
        assert np.allclose(np.sort(slices[1, c].ravel()), np.sort(expected[:, :, 1].ravel()), atol=2e-2)


def test_levels_for_another_number_of_channels_are_refused():
    with pytest.raises(DataError, match="has 2 channels, and --normalise 40/400 is for 1"):
        made(volume(channels=2), normalise="40/400")


def test_a_slice_of_one_value_is_blank_however_it_is_normalised():
    for how in ("slice", "scan", "100/30"):
        assert prepare(volume(constant=True), Slicing(size=16, axis="axial", normalise=how)).blank == 1


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=4))
def test_levels_read_back_from_their_text(levels):
    again = Slicing(normalise=written(levels)).levels
    assert np.allclose(again, levels, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("wrong", ["scans", "", "40", "40/0", "40/-3", "40/400+", "nan/1", "40/0.0"])
def test_what_is_no_level_is_refused(wrong):
    with pytest.raises(ValidationError, match="expected slice, scan, data, or numbers such as 40/400"):
        Slicing(normalise=wrong)


def test_the_levels_of_all_scans_are_those_of_all_their_voxels(scans, tmp_path):
    listed = list_scans(dataset_of(str(scans)), tmp_path)
    slicing = with_levels(Reading.of(installed_readers(), Slicing(normalise="data"), tmp_path / "cache"), listed)
    voxels = np.concatenate([nib.load(file).get_fdata().ravel() for file in sorted(scans.iterdir())])
    ((mean, deviation),) = slicing.levels
    assert mean == pytest.approx(voxels.mean(), rel=1e-4)
    assert deviation == pytest.approx(voxels.std(), rel=1e-4)


def said(file):
    """How the slices were normalised that the weights in a file were trained on."""
    return weights.read(file, "").said()["prepare"]["normalise"]


@pytest.mark.slow
def test_weights_carry_the_levels_of_the_scans_that_they_were_trained_on(labelled, tmp_path):
    common = {"size": 32, "cache": tmp_path / "cache"}
    images = str(labelled / "images")
    run = toolkit.pretrain(
        data=images, normalise="data", backbone=SMALL, steps=2, batch_size=4, out=tmp_path / "run", **common
    )
    numbers = said(run.backbone)
    assert Slicing(normalise=numbers).levels
    assert f'normalise = "{numbers}"' in (run.folder / "run.toml").read_text()
    assert toolkit.pretrain(data=images, backbone=SMALL, steps=2, batch_size=4, out=tmp_path / "other", **common)
    again = {"train_scans": 2, "test_scans": 2, "slices_per_scan": 2, "surface": False, "steps": 2, "batch_size": 4}
    tuned = toolkit.finetune(run, data=str(labelled), out=tmp_path / "ft", cache=tmp_path / "cache", **again)
    assert (
        weights.read(tuned.folder / "pretrained-0" / "model.safetensors", "").said()["prepare"]["normalise"] == numbers
    )
    toolkit.predict(tuned, labelled / "images" / "a_pre.nii.gz", out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())
    plain = toolkit.finetune(
        data=str(labelled), normalise="data", backbone=SMALL, out=tmp_path / "scratch", **common, **again
    )
    own = said(plain.folder / "scratch-0" / "model.safetensors")
    assert Slicing(normalise=own).levels
    assert own != numbers  # of its own training scans
