"""Siemens mosaics: cut into slices that lie where nibabel and the reference say, or refused by name."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from helpers.dicom_files import AFFINE, VOXELS, image, save
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers

READERS = installed_readers()
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SIDE = 3  # nine slices


def csa(**tags: list[str]) -> bytes:
    """The vendor's header, second version, with these tags (Siemens' format as nibabel documents it)."""
    made = b"SV10\x04\x03\x02\x01" + struct.pack("<2I", len(tags), 77)
    for name, values in tags.items():
        made += struct.pack("<64si4s3i", name.encode(), len(values), b"FD", 4, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            made += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return made


def mosaic(
    voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, *, upwards: bool | None = True, tiles: bool = True
) -> Dataset:
    """All slices (columns, rows, slices) in one image; `upwards` says what the vendor's header says, None: nothing."""
    columns, rows, count = voxels.shape
    whole = np.zeros((SIDE * rows, SIDE * columns), voxels.dtype)
    for k in range(count):
        down, right = divmod(k, SIDE)
        whole[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns] = voxels[..., k].T
    lps = LPS @ affine
    centre = lps @ [(columns - 1) / 2, (rows - 1) / 2, 0, 1]  # of the first slice: that of the mosaic too
    placed = affine.copy()
    corner = centre - lps @ [(SIDE * columns - 1) / 2, (SIDE * rows - 1) / 2, 0, 0]
    placed[:3, 3] = (LPS @ corner)[:3]
    data = image(whole.T, placed, 0)
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    data.SpacingBetweenSlices = f"{np.linalg.norm(lps[:3, 2]):.6f}"
    block = data.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    if tiles:
        block.add_new(0x0A, "US", count)
    if upwards is not None:
        normal = lps[:3, 2] / np.linalg.norm(lps[:3, 2]) * (1 if upwards else -1)
        header = csa(NumberOfImagesInMosaic=[str(count)], SliceNormalVector=[f"{x:.8f}" for x in normal])
        data.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header)
    return data


def same(volume, affine=AFFINE, voxels=VOXELS):
    assert np.array_equal(volume.array, voxels)
    assert np.abs(volume.affine - affine).max() < 1e-4


def test_a_mosaic_is_read_as_the_volume_that_it_shows(tmp_path):
    save(mosaic(), tmp_path / "a.dcm")
    volume = READERS.read(tmp_path)
    same(volume)
    assert volume.notes == ()


def test_it_lies_where_nibabel_says(tmp_path):
    data = pydicom.dcmread(save(mosaic(), tmp_path / "a.dcm"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import MosaicWrapper

        theirs = MosaicWrapper(data)
    assert theirs.image_shape == (24, 20, 9)  # rows, columns, slices
    swap = np.eye(4)[[1, 0, 2, 3]]
    same(READERS.read(tmp_path), LPS @ theirs.affine @ swap)


def test_slices_that_follow_against_the_normal_are_turned_with_their_positions(tmp_path):
    """The vendor's header alone has the sign: read by the product of row and column they would be upside down."""
    down = AFFINE.copy()
    down[:3, 2] *= -1
    save(mosaic(affine=down, upwards=True), tmp_path / "a.dcm")
    volume = READERS.read(tmp_path)
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = 8
    same(volume, down @ flip, VOXELS[..., ::-1])


def test_without_the_vendors_header_the_direction_is_assumed_with_a_note(tmp_path):
    straight = np.diag([-0.7, -0.8, 2.5, 1.0])
    save(mosaic(affine=straight, upwards=None), tmp_path / "a.dcm")
    volume = READERS.read(tmp_path)
    same(volume, straight)
    assert "do not say in which direction their slices follow" in volume.notes[0]


def test_mosaics_of_a_time_series_are_volumes(tmp_path):
    for t in range(3):
        data = mosaic((VOXELS + 1000 * t).astype(np.int16))
        data.InstanceNumber, data.AcquisitionNumber = 3 - t, t + 1  # in the order of acquisition
        save(data, tmp_path / f"{t}.dcm")
    for t in range(3):
        same(READERS.read(tmp_path, t), voxels=VOXELS + 1000 * t)
    with pytest.raises(DataError, match="4-D with 3 volumes"):
        READERS.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.private_block(0x0019, "SIEMENS MR HEADER").__delitem__(0x0A), "their number is missing"),
        (lambda data: setattr(data, "Rows", data.Rows - 1), r"cannot be cut out \(9 of 71 x 60 pixels\)"),
        (lambda data: setattr(data, "ImageType", ["ORIGINAL", "PRIMARY", "M", "VFRAME"]), "dcm2niix converts it"),
    ],
)
def test_mosaics_that_cannot_be_cut_are_named(tmp_path, change, said):
    data = mosaic(upwards=None)
    change(data)
    save(data, tmp_path / "a.dcm")
    with pytest.raises(DataError, match=said):
        READERS.read(tmp_path)


@pytest.mark.parametrize("header", [b"", b"SV10", b"\xff" * 400, csa(NumberOfImagesInMosaic=["x"])])
def test_a_damaged_header_of_the_vendor_counts_as_none(tmp_path, header):
    data = mosaic(affine=np.diag([-0.7, -0.8, 2.5, 1.0]))
    data[0x00291010].value = header
    save(data, tmp_path / "a.dcm")
    assert "is assumed" in READERS.read(tmp_path).notes[0]
