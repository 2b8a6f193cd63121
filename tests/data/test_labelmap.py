"""Label maps among scans are known by their voxels, whatever they are called; scans are never taken for label maps."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from helpers.places import shared_data
from helpers.small import write_scan
from ssmtl_datasets.phantom import make_scan
from ssmtl_toolkit.data.labelmap import looks_like_labels
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers

CT, MRI = make_scan(1, "ct"), make_scan(2, "mri")
RNG = np.random.default_rng(0)


def reason(array, slice_axis=2):
    return looks_like_labels(Volume(np.asarray(array), np.eye(4), (1.0, 1.0, 1.0), slice_axis))


def test_whole_numbers_of_any_height_are_counted():
    high = np.full((12, 12, 12), np.finfo(np.float32).max)
    assert reason(high) == "1 whole values"
    low = np.where(CT.label > 0, 1, 0) - 2**31
    assert reason(low.astype(np.int32)) == "2 whole values"


def windowed(low, high):
    return np.rint(np.clip((CT.image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def landmarks():
    points = np.zeros((60, 60, 60), np.int16)
    for value in range(1, 25):
        points[tuple(RNG.integers(2, 58, 3))] = value
    return points


LABELS = {
    "the phantom's": CT.label,
    "one structure": CT.label > 0,
    "one structure as 255": 255 * (CT.label > 0),
    "as float": (CT.label > 0).astype(np.float32),
    "negative values": np.where(CT.label > 0, -1, 0),
    "on one slice only": np.where(np.arange(CT.label.shape[2]) == 20, CT.label, 0),
    "large numbers": np.where(CT.label > 0, CT.label.astype(np.int64) * 100_003, 0),
    "instances": np.where(
        CT.label > 0, np.add.reduce(np.indices(CT.label.shape) // 8 * [[[[1]]], [[[9]]], [[[81]]]]), 0
    ),
    "enlarged": CT.label.repeat(3, 0).repeat(3, 1),
    "landmarks": landmarks(),
    "a parcellation": np.indices((60, 60, 20)).sum(0) // 4,
}


@pytest.mark.parametrize("array", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("slice_axis", [0, 2])
def test_a_label_map_is_known(array, slice_axis):
    assert "whole values" in reason(array, slice_axis)


SCANS = {
    "CT": CT.image,
    "CT as int16": CT.image.astype(np.int16),
    "CT, window of the brain, 8 bit": windowed(0, 80),
    "CT, window of the abdomen, 8 bit": windowed(-160, 240),
    "CT, window of the bones, 8 bit": windowed(300, 1500),
    "MRI": MRI.image,
    "MRI of 16 levels": np.rint(MRI.image / MRI.image.max() * 15),
    "MRI smoothed, 8 bit": np.rint(ndimage.gaussian_filter(MRI.image, 2) / MRI.image.max() * 255),
    "MRI, masked": np.where(ndimage.gaussian_filter(MRI.image, 6) > 90, MRI.image, 0),
    "MRI, enlarged linearly": np.rint(
        ndimage.zoom(MRI.image[:30, :30, :5] / MRI.image.max() * 255, (4, 4, 1), order=1)
    ),
    "a small scan on a large grid": np.pad(windowed(-160, 240)[:40, :40, :10], ((100, 100), (100, 100), (20, 20))),
    "CT, narrow window, 8 bit, in a frame": np.pad(windowed(-30, 80) + np.uint16(1), ((80, 80), (80, 80), (0, 0))),
    "a tiny scan of 50 levels": RNG.integers(0, 50, (16, 16, 12)).astype(np.int16),
    "vessels on black": np.where(CT.image > np.percentile(CT.image, 98), windowed(-160, 1000), 0)[:40, :40],
    "few counts of decays": RNG.poisson(1.0, (40, 40, 12)),
    "a map of probabilities": ndimage.gaussian_filter((CT.label == 500).astype(np.float32), 2),
}


@pytest.mark.parametrize("array", SCANS.values(), ids=SCANS)
def test_a_scan_is_no_label_map(array):
    assert reason(array) == ""


@pytest.mark.slow
def test_all_real_scans_are_scans_and_all_real_label_maps_are_label_maps():
    root = shared_data()
    if not root.is_dir():
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    readers = installed_readers()
    tried = {"images": 0, "labels": 0}
    for folder in ("msd_hippocampus", "sunnybrook_lv", "chaos_t2_mr", "odd/unpaired_hippocampus"):
        for kind in tried:
            for file in sorted((root / folder / kind).glob("*.nii.gz"))[::3]:
                reader = readers.of(file)
                try:
                    found = looks_like_labels(reader.read(file, 0))
                except DataError:
                    continue
                assert bool(found) == (kind == "labels"), file
                tried[kind] += 1
    assert min(tried.values()) > 80


def write(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.uint8), np.diag([1, 1, 2, 1])), file)
    return file


@pytest.fixture
def mixed(tmp_path):
    """Three scans, and two masks that no name betrays."""
    for i in range(3):
        write_scan(tmp_path / "mixed" / f"p{i}.nii.gz", seed=i)
    for name, lowest in (("liver", 1), ("spleen", 501)):
        write(tmp_path / "mixed" / f"{name}.nii.gz", CT.label[::4, ::4, 10:22] >= lowest)
    return tmp_path / "mixed"


OPTIONS = ["--size", 16, "--steps", 1, "--backbone", "unet:encoder=plain,width=8", "--task", "reconstruct_next:t=1"]


def test_a_run_lists_and_leaves_out_what_looks_like_a_label_map(mixed, ssmtl):
    done = ssmtl("run", "--data", mixed, *OPTIONS, "--out", "r")
    assert done.returncode == 0
    assert "3 scans, 2 skipped" in done.stderr
    for name in ("liver", "spleen"):
        assert f"{name}.nii.gz: looks like a label map: 2 whole values; list it in a manifest" in done.stderr


def test_nothing_but_label_maps_is_refused(mixed, ssmtl, tmp_path):
    for name in ("liver", "spleen"):
        (tmp_path / "atlas").mkdir(exist_ok=True)
        (mixed / f"{name}.nii.gz").rename(tmp_path / "atlas" / f"{name}.nii.gz")
    done = ssmtl("run", "--data", tmp_path / "atlas", *OPTIONS, "--out", "r")
    assert done.returncode == 3
    assert "no scan can be used" in done.stderr
    assert "liver.nii.gz: looks like a label map" in done.stderr


def test_the_labels_folder_of_a_data_set_is_refused(labelled, ssmtl):
    done = ssmtl("run", "--data", labelled / "labels", *OPTIONS, "--out", "r")
    assert done.returncode == 3
    assert "looks like a label map" in done.stderr


def test_a_file_that_is_given_itself_or_in_a_manifest_is_taken_with_a_note(mixed, ssmtl):
    (mixed / "all.csv").write_text("image\nliver.nii.gz\np0.nii.gz\n")
    for data, scans in ((mixed / "liver.nii.gz", 1), (mixed / "all.csv", 2)):
        done = ssmtl("run", "--data", data, *OPTIONS, "--out", f"r{scans}")
        assert done.returncode == 0
        assert f"of {scans} scan" in done.stderr
        assert "liver.nii.gz: looks like a label map: 2 whole values, not like a scan" in done.stderr


def test_fine_tuning_on_an_image_that_looks_like_a_label_map_notes_it(labelled, ssmtl, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for file in sorted((labelled / kind).iterdir()):
            (tmp_path / "set" / kind / file.name).symlink_to(file)
    for patient in "abcde":
        image = tmp_path / "set" / "images" / f"{patient}_pre.nii.gz"
        image.unlink()
        nib.save(nib.load(labelled / "labels" / image.name), image)
    options = ["--data", tmp_path / "set", "--size", 16, "--steps", 1, "--test-scans", 2, "--no-surface"]
    done = ssmtl("finetune", *options, "--backbone", "unet:encoder=plain,width=8", "--out", "f")
    assert done.returncode == 0
    assert "_pre.nii.gz: looks like a label map: 3 whole values, not like a scan" in done.stderr


def test_predicting_what_looks_like_a_label_map_notes_it(tuned, labelled, ssmtl):
    done = ssmtl("predict", "--from", tuned / "pretrained-0", labelled / "labels" / "a_pre.nii.gz", "-o", "out")
    assert done.returncode == 0
    assert "a_pre.nii.gz: looks like a label map: 3 whole values, not like a scan" in done.stderr
