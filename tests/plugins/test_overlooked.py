"""Files of a data folder that are not looked at, hidden and without an ending, are counted in one line."""

import json
import shutil

import pytest

from helpers.dicom_files import write_series
from helpers.small import blobs, write_scan


def notes(done):
    assert done.returncode == 0, done.stderr
    return [line for line in json.loads(done.stdout)["remarks"] if "not looked at" in line]


def test_hidden_files_and_those_without_an_ending_are_counted_in_one_line(ssmtl, scans):
    assert notes(ssmtl("data", "info", scans, "--json")) == []
    shutil.copy(scans / "p0.nii.gz", scans / "._p0.nii.gz")
    shutil.copy(scans / "p0.nii.gz", scans / ".p9.nii.gz")
    write_scan(scans / "more" / "q0.nii.gz", seed=9)
    (scans / "more" / "IM\x1b0001").write_bytes(b"not DICOM")
    for name in ("README", ".DS_Store", "dataset.txt"):
        (scans / name).write_text("words")
    (note,) = notes(ssmtl("data", "info", scans, "--json"))
    assert "2 hidden files, such as ._p0.nii.gz; 1 file without an ending, such as IM\\x1b0001; rename what" in note


@pytest.mark.parametrize("place", ["series", "."])
def test_slices_of_dicom_without_an_ending_are_none_of_them(ssmtl, tmp_path, place):
    folder = tmp_path / "dicom" / place
    write_series(folder, blobs(6, seed=1))
    assert {path.name for path in folder.iterdir()} == {f"IM{i}" for i in range(1, 7)}
    assert notes(ssmtl("data", "info", tmp_path / "dicom", "--json")) == []


def series(folder, slices=6, **how):
    return write_series(folder, blobs(slices, seed=1), **how)


def without_preamble(folder):
    for file in series(folder).glob("IM*"):
        file.write_bytes(file.read_bytes()[132:])


def some_with_an_ending(folder):
    series(folder)
    (folder / "IM2").rename(folder / "IM2.dcm")


def with_an_index(folder):
    series(folder)
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"1.2.840.10008.1.3.10")


def two_series(folder):
    series(folder)
    series(folder, 7, name="J{}", series=4)


@pytest.mark.parametrize("write", [series, without_preamble, some_with_an_ending, with_an_index, two_series])
@pytest.mark.parametrize("place", [".", "more/series"])
def test_slices_beside_nifti_are_read_or_named(ssmtl, scans, write, place):
    write(scans / place)
    done = ssmtl("data", "info", scans, "--json")
    assert notes(done) == []
    assert json.loads(done.stdout)["scans"] == (6 if write is two_series else 5)


def test_a_single_slice_is_named(ssmtl, scans):
    series(scans, 1)
    done = ssmtl("data", "info", scans, "--json")
    assert notes(done) == []
    assert "is a single image" in done.stdout


def hidden_slices(folder):
    series(folder / "s")
    (folder / "s" / "IM6").rename(folder / "s" / ".IM6")
    (folder / "s" / "IM1").rename(folder / "s" / ".IM1.dcm")


def slices_with_other_endings(folder):
    series(folder / "s", name="IM{}.dcm")
    for name in ("IM1.dcm.gz", "IM6.dcm.part"):
        (folder / "s" / name[:7]).rename(folder / "s" / name)


def no_slice_among_them(folder):
    series(folder / "s")
    (folder / "s" / "NOTES").write_text("words")


def beside_images(folder):
    write_scan(folder / "images" / "p.nii.gz")
    series(folder / "more")  # named: ignored because of images/
    series(folder, 2)


def not_in_a_data_list(folder):
    write_scan(folder / "images" / "p.nii.gz")
    write_scan(folder / "labels" / "p.nii.gz")
    training = [{"image": "images/p.nii.gz", "label": "labels/p.nii.gz"}]
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "no", "1": "one"}, "training": training}))
    series(folder / "images", 3)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (hidden_slices, "2 hidden files, such as .IM1.dcm"),
        (slices_with_other_endings, "2 slices packed or not whole, such as IM1.dcm.gz"),
        (no_slice_among_them, "1 file without an ending, such as NOTES"),
        (beside_images, "2 files without an ending, such as IM1"),
        (not_in_a_data_list, "3 files without an ending, such as IM1"),
    ],
)
def test_slices_that_are_not_read_are_counted(ssmtl, tmp_path, write, said):
    write(tmp_path / "data")
    (note,) = notes(ssmtl("data", "info", tmp_path / "data", "--json"))
    assert f"not looked at: {said}; rename" in note
