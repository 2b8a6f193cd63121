"""Label pictures beside DICOM, as in CHAOS: matched with slices by their names, whichever way those run."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import AFFINE, VOXELS, write_series
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.labels import read_label, read_labels
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of

LABEL = np.where(VOXELS.mean(axis=(0, 1)) < VOXELS, 63, 0).astype(np.uint8)  # (columns, rows, slices)
COUNT = VOXELS.shape[2]
LIVER = Classes.parse("liver=63")


def read(scan):
    """The scan and its labels."""
    image = installed_readers().read_scan(scan)
    return image, read_label(scan, installed_readers(), image, LIVER)


def pictures(folder, name):
    """A picture for each slice; `name` is given its number from below."""
    folder.mkdir(parents=True)
    for k in range(COUNT):
        Image.fromarray(LABEL[..., k].T).save(folder / name(k))


def chaos(root, name, dicom="IMG-0004-{:05d}.dcm"):
    """A patient whose DICOM files are numbered from above."""
    write_series(root / "MR/1/T2SPIR/DICOM_anon", name=dicom)
    pictures(root / "MR/1/T2SPIR/Ground", name)
    (scan,) = [scan for scan in list_scans(dataset_of(str(root)), root) if not scan.unfit]
    return scan


@pytest.mark.parametrize(
    "name",
    [lambda k: f"IMG-0004-{COUNT - k:05d}.png", lambda k: f"liver_GT_{COUNT - 1 - k:03d}.png"],
    ids=["names of the slices", "other names in the same order"],
)
def test_pictures_lie_where_the_slices_of_their_names_lie(tmp_path, name):
    scan = chaos(tmp_path, name)
    image, label = read(scan)
    assert np.array_equal(image.array, VOXELS)
    labels = read_labels(label, image, LIVER, "x")
    assert np.array_equal(labels.index, LABEL // 63)
    assert label.notes == ("its pictures are matched with the slices of the scan by their names",)


def test_pictures_that_cannot_be_matched_are_refused(tmp_path):
    scan = chaos(tmp_path, lambda k: f"{k:03d}.png")
    for k, file in enumerate(sorted(scan.path.iterdir() if scan.path.is_dir() else scan.path.parent.iterdir())):
        file.rename(file.with_name(f"{(5 * k) % COUNT}.dcm"))
    (scan,) = [one for one in list_scans(dataset_of(str(tmp_path)), tmp_path) if not one.unfit]
    for file in scan.label.iterdir():
        file.rename(file.with_name(f"a{file.name}"))
    with pytest.raises(DataError, match=r"Ground: its pictures cannot be matched with the slices of its scan"):
        read(scan)


def test_another_number_of_pictures_is_refused(tmp_path):
    scan = chaos(tmp_path, lambda k: f"{k:03d}.png")
    (scan.label / "003.png").unlink()
    with pytest.raises(DataError, match=rf"Ground: has {COUNT - 1} pictures, its scan {COUNT} slices"):
        read(scan)
    assert np.allclose(installed_readers().read_scan(scan).affine, AFFINE, atol=1e-4)


def test_the_liver_masks_of_ct_have_the_value_of_the_liver_in_mr(tmp_path):
    write_series(tmp_path / "CT/5/DICOM_anon", name="i{:04d},0000b.dcm")
    pictures(tmp_path / "CT/5/Ground", lambda k: f"liver_GT_{COUNT - 1 - k:03d}.png")
    (scan,) = [scan for scan in list_scans(dataset_of(str(tmp_path)), tmp_path) if not scan.unfit]
    assert np.array_equal(read(scan)[1].array, LABEL)
    assert dataset_of(str(tmp_path)).classes()["liver"] == (63,)
