"""Folders of DICOM as they come from discs and exports: indices, any suffix, and a series in several folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from helpers.dicom_files import AFFINE, VOXELS, image, save, write_series
from ssmtl_formats import Dicom
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.readers import digest_with
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Scan

SLICES = VOXELS.shape[2]


def scans(root: Path) -> list[Scan]:
    return list_scans(dataset_of(str(root)), root / "unused")


def names_of(root: Path) -> list[str]:
    return [scan.name for scan in scans(root) if not scan.unfit]


def reads_whole(path: Path) -> bool:
    return np.array_equal(installed_readers().read(path).array, VOXELS)


def write_index(file: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MediaStorageDirectoryStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    index.FileSetID, index.DirectoryRecordSequence = "DISC", Sequence([])
    index.save_as(file, enforce_file_format=True)


@pytest.mark.parametrize(
    "name", ["DICOMDIR", "DIRFILE", "DICOMDIR (1)", "DICOMDIR.bak2", "index.dcm", "INDEX_1", "1.2"]
)
def test_an_index_of_a_disc_is_skipped_whatever_it_is_called(tmp_path, name):
    folder = write_series(tmp_path / "disc" / "p1")
    write_index(folder / name)
    write_index(tmp_path / "disc" / name)
    assert names_of(tmp_path / "disc") == ["p1"]
    assert reads_whole(folder)
    assert Dicom().read(folder).notes == ()


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR (1)", "DIRFILE"])
def test_an_index_that_is_given_is_called_one(tmp_path, name):
    write_index(tmp_path / name)
    with pytest.raises(DataError, match="is an index of DICOM files; give the folder that it is in"):
        installed_readers().read(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "i_{}.img",
        "s{}.CT",
        "CT.{}.anon",
        "a.b.{}.anon",
        "I{}.dc3",
        "Image (v1.2) {}",
        "IM{}.dcm.bak",
        "{}.DCM",
        "{}.mag",
    ],
)
def test_dicom_is_found_with_any_suffix(tmp_path, name):
    folder = write_series(tmp_path / "p1", name=name)
    assert names_of(tmp_path) == ["p1"]
    assert reads_whole(folder)
    assert reads_whole(folder / name.format(3))


def test_other_files_and_backups_beside_slices_change_nothing(tmp_path):
    folder = write_series(tmp_path / "p1", name="{}.dcm")
    for name in ("1.dcm.bak", "2.dcm~", ".3.dcm", "._4.dcm"):
        (folder / name).write_bytes((folder / "1.dcm").read_bytes())
    for name in ("notes.txt", "a.foo", "b.img", "thumbs.db", "x.par"):
        (folder / name).write_bytes(bytes(200))
    assert names_of(tmp_path) == ["p1"]
    assert reads_whole(folder)
    assert Dicom().read(folder).notes == ()


def test_an_empty_file_with_the_suffix_of_the_slices_was_one(tmp_path):
    folder = write_series(tmp_path / "p1", name="{}.CT")
    (folder / "9.CT").write_bytes(b"")
    with pytest.raises(DataError, match=r"9\.CT: is empty"):
        installed_readers().read(folder)


def test_the_voxels_of_a_pair_are_no_dicom(tmp_path):
    (tmp_path / "a.img").write_bytes(bytes(5000))
    assert not Dicom().matches(tmp_path / "a.img")
    with pytest.raises(DataError, match=r"give the \.hdr file beside it"):
        installed_readers().read(tmp_path / "a.img")


def spread(root: Path, where: list[str], **extra: object) -> Path:
    """Write slice k into folder `where[k]` below `root`."""
    for k, folder in enumerate(where):
        (root / folder).mkdir(parents=True, exist_ok=True)
        save(image(VOXELS[..., k], AFFINE, k, **extra), root / folder / f"IM{k}")
    return root


@pytest.mark.parametrize(
    "where",
    [
        ["a", "a", "a", "a", "a", "b", "b", "b", "b"],
        ["odd", "even"] * 4 + ["odd"],
        [f"{k}" for k in range(SLICES)],
        ["A/DICOM"] * 4 + ["B/DICOM"] * 5,
        ["."] * 4 + ["more"] * 5,
        ["a", "b", "c"] * 3,
    ],
    ids=["halves", "interleaved", "one-per-folder", "below", "within", "thirds"],
)
def test_a_series_in_several_folders_is_one_scan(tmp_path, where):
    spread(tmp_path / "data" / "p1", where)
    write_series(tmp_path / "data" / "p2", SeriesInstanceUID="1.2.9")
    found = scans(tmp_path / "data")
    assert [(scan.name, scan.patient, scan.unfit) for scan in found] == [("p1", "p1", ""), ("p2", "p2", "")]
    assert reads_whole(found[0].path)
    assert "its series lies in" in Dicom().read(found[0].path).notes[0]
    assert len(Dicom().files(found[0].path)) == SLICES
    (only,) = scans(tmp_path / "data" / "p1")
    assert reads_whole(only.path)


def test_a_changed_slice_in_any_folder_of_a_series_is_noticed(tmp_path):
    root = spread(tmp_path / "p1", ["a"] * 4 + ["b"] * 5)
    before = digest_with(Dicom(), root, DigestMemo(tmp_path / "memo"))
    save(image(VOXELS[..., 7] + 1, AFFINE, 7), root / "b" / "IM7")
    assert digest_with(Dicom(), root, DigestMemo(tmp_path / "memo")) != before


def test_parts_that_do_not_join_are_left_out_with_the_reason(tmp_path):
    data = tmp_path / "data"
    write_series(data / "whole", SeriesInstanceUID="1.2.9")
    gap = spread(data / "gap", ["a"] * 4 + ["b"] * 5)
    (gap / "b" / "IM4").unlink()
    sizes = spread(data / "sizes", ["a"] * 4 + ["b"])
    save(image(VOXELS[:10, :, 0], AFFINE, 5), sizes / "b" / "IM5")
    overlap = spread(data / "overlap", ["a"] * 5 + ["b"] * 4)
    save(image(VOXELS[..., 0], AFFINE, 4), overlap / "b" / "IM4")
    assert names_of(data) == ["whole"]
    said = {scan.name: scan.unfit for scan in scans(data) if scan.unfit}
    assert said.keys() == {"gap", "sizes", "overlap"}
    assert "series-3 is spread over 2 folders (a, b) and does not join: is missing slices" in said["gap"]
    assert "spread over 2 folders (a, b) and does not join: has images of different sizes" in said["sizes"]
    assert "spread over 2 folders (a, b) and does not join: has 1 to 2 images" in said["overlap"]


def test_two_series_that_are_both_in_parts_are_left_out_by_name(tmp_path):
    for number in (3, 4):
        spread(tmp_path / f"to{number}", ["a"] * 4 + ["b"] * 5, series=number)
    for k, folder in enumerate(["a"] * 4 + ["b"] * 5):
        (tmp_path / "to4" / folder / f"IM{k}").rename(tmp_path / "to3" / folder / f"of4_{k}")
    (only,) = scans(tmp_path / "to3")
    assert "series-3 over 2 folders (a, b), series-4 over 2 folders (a, b)); put all files into one fol" in only.unfit


def test_a_whole_series_beside_a_part_of_another_stays_a_scan(tmp_path):
    root = spread(tmp_path / "data" / "p1", ["a"] * 4 + ["b"] * 5)
    write_series(root / "a", VOXELS + 1, name="other{}", series=5)
    found = {scan.name: scan.path for scan in scans(tmp_path / "data") if not scan.unfit}
    assert found.keys() == {"p1", "p1/a/series-5"}
    assert reads_whole(found["p1"])
    assert np.array_equal(installed_readers().read(found["p1/a/series-5"]).array, VOXELS + 1)


def test_volumes_and_patients_with_one_series_number_stay_scans_of_their_own(tmp_path):
    for name in ("p1", "p2", "p3"):  # as anonymisers leave them behind
        write_series(tmp_path / name, VOXELS + len(name), SeriesInstanceUID="1.2.3")
    write_series(tmp_path / "p3" / "again", SeriesInstanceUID="1.2.3")
    assert names_of(tmp_path) == ["p1", "p2", "p3", "p3/again"]
    assert all(Dicom().read(tmp_path / name).notes == () for name in ("p1", "p2", "p3"))


def test_a_copy_of_a_slice_in_the_other_folder_is_left_out(tmp_path):
    root = spread(tmp_path / "p1", ["a"] * 5 + ["b"] * 4)
    (root / "b" / "IM4").write_bytes((root / "a" / "IM4").read_bytes())
    assert names_of(tmp_path) == ["p1"]
    assert reads_whole(root)
    assert "1 copies of its images are skipped" in Dicom().read(root).notes
