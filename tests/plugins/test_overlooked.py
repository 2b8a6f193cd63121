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
