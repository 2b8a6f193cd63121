"""Headers whose voxels are in another file: one that has a header of its own is not read as voxels."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from helpers.dicom_files import AFFINE, VOXELS, image, save
from ssmtl_formats import MetaImage, Nrrd
from ssmtl_toolkit.errors import DataError


def nhdr(file: Path, data: Path, **fields: str) -> Path:
    lines = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, VOXELS.shape)),
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "endian": "little",
        "encoding": "gzip" if data.suffix in (".gz", ".mgz") else "raw",
        **fields,
        "data file": data.name,
    }
    file.write_text("NRRD0004\n" + "".join(f"{name}: {value}\n" for name, value in lines.items()))
    return file


def mhd(file: Path, data: Path, *more: str) -> Path:
    sizes = " ".join(map(str, VOXELS.shape))
    lines = ["NDims = 3", f"DimSize = {sizes}", "ElementType = MET_SHORT", *more, f"ElementDataFile = {data.name}"]
    file.write_text("ObjectType = Image\n" + "\n".join(lines) + "\n")
    return file


def write(file: Path) -> Path:
    """Write VOXELS in the format of the suffix."""
    if file.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(VOXELS, AFFINE), file)
    elif file.suffix == ".n2":
        nib.Nifti2Image(VOXELS, AFFINE).to_filename(file.with_suffix(".nii"))
        file.with_suffix(".nii").rename(file)
    elif file.suffix in (".mgh", ".mgz"):
        nib.save(nib.MGHImage(VOXELS.astype(np.int16), AFFINE), file)
    elif file.suffix == ".dcm":
        save(image(np.concatenate([*VOXELS.T]).T, AFFINE, 0), file)
    elif file.suffix == ".png":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100), np.uint8)).save(file)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS.T), str(file))
    return file


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.n2", "v.mha", "v.nrrd", "v.mgh", "v.mgz", "v.dcm", "v.png"])
def test_a_header_over_a_file_with_one_of_its_own_is_refused(tmp_path, name):
    data = write(tmp_path / name)
    for reader, file in [(Nrrd(), nhdr(tmp_path / "v.nhdr", data)), (MetaImage(), mhd(tmp_path / "v.mhd", data))]:
        if file.suffix == ".mhd" and data.suffix in (".gz", ".mgz"):
            continue  # packed voxels of MetaImage have no header of gzip's
        with pytest.raises(DataError) as error:
            reader.read(file)
        assert "\n" not in str(error.value)
        assert f"{name}: has a header of its own, whose bytes would be read as voxels" in str(error.value)


def test_where_the_header_says_where_voxels_begin_they_are_read(tmp_path):
    plain, packed = write(tmp_path / "v.nii"), write(tmp_path / "v.nii.gz")
    for file in (
        nhdr(tmp_path / "a.nhdr", plain, **{"byte skip": "352"}),
        nhdr(tmp_path / "b.nhdr", plain, **{"byte skip": "-1"}),
        nhdr(tmp_path / "c.nhdr", packed, **{"byte skip": "352"}),
    ):
        volume = Nrrd().read(file)
        assert np.array_equal(volume.array, VOXELS)
        assert not [note for note in volume.notes if "bytes" in note]
    for size in ("352", "-1"):
        assert np.array_equal(MetaImage().read(mhd(tmp_path / "d.mhd", plain, f"HeaderSize = {size}")).array, VOXELS)


def test_a_skip_that_does_not_reach_the_voxels_is_refused(tmp_path):
    plain = write(tmp_path / "v.nii")
    with pytest.raises(DataError, match=r"has a header of its own.*\(byte skip\)"):
        Nrrd().read(nhdr(tmp_path / "a.nhdr", plain, **{"byte skip": "348"}))
    with pytest.raises(DataError, match=r"has a header of its own.*\(HeaderSize\)"):
        MetaImage().read(mhd(tmp_path / "a.mhd", plain, "HeaderSize = 348"))


def test_plain_voxels_are_read_whatever_their_file_is_called(tmp_path):
    (tmp_path / "v.dat").write_bytes(VOXELS.tobytes(order="F"))
    (tmp_path / "v.raw.gz").write_bytes(gzip.compress(VOXELS.tobytes(order="F")))
    for name in ("v.dat", "v.raw.gz"):
        assert np.array_equal(Nrrd().read(nhdr(tmp_path / "v.nhdr", tmp_path / name)).array, VOXELS)
