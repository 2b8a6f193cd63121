"""What a scan is, from its header alone: as the whole file is read, for every format, and without its voxels."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from helpers.dicom_files import AFFINE, VOXELS, write_series
from helpers.places import shared_data
from ssmtl_toolkit.data.finding import find
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import Scan

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([0.8, 0.9, 2.5]), [-10.0, 20.0, 30.0]
)


def nifti(folder: Path, name: str = "a.nii.gz", affine=OBLIQUE) -> Path:
    nib.save(nib.Nifti1Image(VOXELS.astype(np.int16), affine), folder / name)
    return folder / name


def mgh(folder: Path) -> Path:
    nib.save(nib.MGHImage(VOXELS.astype(np.float32), OBLIQUE), folder / "a.mgz")
    return folder / "a.mgz"


def itk(folder: Path, name: str) -> Path:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(VOXELS.T.astype(np.int16)))
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    SimpleITK.WriteImage(image, str(folder / name))
    return folder / name


def pictures(folder: Path) -> Path:
    for i in range(3):
        Image.fromarray(np.full((20, 12), i, np.uint8)).save(folder / f"slice{i}.png")
    (folder / "slices.toml").write_text('spacing = [4.0, 0.5, 0.7]\naxis = "sagittal"\n')
    return folder


def series(folder: Path) -> Path:
    write_series(folder)
    return folder


EVERY = {
    "nifti": nifti,
    "pair": lambda folder: nifti(folder, "a.hdr"),
    "mgh": mgh,
    "nrrd": lambda folder: itk(folder, "a.nrrd"),
    "nhdr": lambda folder: itk(folder, "a.nhdr"),
    "mha": lambda folder: itk(folder, "a.mha"),
    "mhd": lambda folder: itk(folder, "a.mhd"),
    "dicom": series,
    "slices": pictures,
}


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_the_header_says_what_reading_gives(make, tmp_path):
    path, readers = make(tmp_path), installed_readers()
    header, volume = readers.header(path), readers.read(path)
    assert header.shape == volume.shape
    assert header.spacing == pytest.approx(volume.spacing)
    assert np.allclose(header.affine, volume.affine)
    assert (header.slice_axis, header.channels, header.volumes) == (volume.slice_axis, volume.channels, 1)
    assert header.notes == volume.notes
    assert header.empty().shape == volume.shape


def test_the_header_of_a_series_is_that_of_its_positions(tmp_path):
    header = installed_readers().header(series(tmp_path))
    assert header.shape == VOXELS.shape
    assert np.allclose(header.affine, AFFINE, atol=1e-4)


def test_a_header_is_read_without_the_voxels_behind_it(tmp_path):
    path = nifti(tmp_path)
    packed = path.read_bytes()
    path.write_bytes(packed[:-60])  # the header is whole, the last voxels are not
    assert installed_readers().header(path).shape == VOXELS.shape
    with pytest.raises(DataError, match="gzip"):
        installed_readers().read(path)


def test_a_file_that_is_too_short_for_its_header_is_refused_by_its_header(tmp_path):
    path = nifti(tmp_path, "a.nii")
    os.truncate(path, path.stat().st_size - 2)
    with pytest.raises(DataError, match="is cut short"):
        installed_readers().header(path)


def test_several_volumes_are_counted(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 7), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert installed_readers().header(tmp_path / "a.nii.gz").volumes == 7
    scaled = nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4))
    scaled.header.set_slope_inter(2.0, 1.0)
    nib.save(scaled, tmp_path / "b.nii.gz")
    assert installed_readers().header(tmp_path / "b.nii.gz").dtype == "int16"


def test_channels_in_several_files_are_joined_and_their_grids_compared(tmp_path):
    readers, first = installed_readers(), nifti(tmp_path)
    shutil.copy(first, tmp_path / "b.nii.gz")
    scan = Scan(first, "a", "a", more=(tmp_path / "b.nii.gz",))
    assert readers.scan_header(scan).channels == readers.read_scan(scan).channels == 2
    turned = nib.load(first).as_reoriented([[0, -1], [1, 1], [2, 1]])  # the same grid, stored the other way round
    nib.save(turned, tmp_path / "c.nii.gz")
    assert readers.scan_header(replace(scan, more=(tmp_path / "c.nii.gz",))).shape == VOXELS.shape
    nifti(tmp_path, "d.nii.gz", np.diag([1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(DataError, match=r"d\.nii\.gz: has voxels of 1 x 1 x 1 mm, .*a\.nii\.gz has 0\.8 x 0\.9 x 2\.5"):
        readers.scan_header(replace(scan, more=(tmp_path / "d.nii.gz",)))


def test_of_every_odd_file_that_reads_the_header_says_the_same(tmp_path):
    odd = shared_data() / "odd"
    if not odd.is_dir():
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    readers, compared = installed_readers(), 0
    for found in find(odd, readers):
        if found.unfit:
            continue
        try:
            volume = readers.read(found.path, 0)
        except DataError:
            continue
        header = readers.header(found.path)
        assert header.shape == volume.shape, found.path
        assert np.allclose(header.affine, volume.affine), found.path
        assert header.spacing == pytest.approx(volume.spacing), found.path
        compared += 1
    assert compared > 20
