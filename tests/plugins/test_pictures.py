"""JPEG and TIFF slices, TIFF stacks, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from helpers.dicom_files import VOXELS
from helpers.small import write_pair
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of

READERS = installed_readers()
GRAY = ((VOXELS - VOXELS.min()) / 8).astype(np.uint8)  # columns, rows, slices
WIDE = (VOXELS.astype(np.int32) + 2000).astype(np.uint16)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        READERS.read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def write_pictures(folder: Path, voxels: np.ndarray, suffix: str, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(voxels.shape[2]):
        Image.fromarray(np.ascontiguousarray(voxels[..., k].T)).save(folder / f"slice{k}{suffix}", **options)
    return folder


def stack(file: Path, voxels: np.ndarray, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pages = [Image.fromarray(np.ascontiguousarray(voxels[..., k].T)) for k in range(voxels.shape[2])]
    pages[0].save(file, save_all=True, append_images=pages[1:], **options)
    return file


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
@pytest.mark.parametrize("voxels", [GRAY, WIDE, VOXELS.astype(np.int32), VOXELS.astype(np.float32) / 3])
def test_tiff_keeps_values_as_slices_and_as_a_stack(tmp_path, voxels, compression):
    folder = write_pictures(tmp_path / "p", voxels, ".tif", compression=compression)
    one, other = READERS.read(folder), READERS.read(stack(tmp_path / "s.tiff", voxels, compression=compression))
    for volume in (one, other):
        assert np.array_equal(volume.array, voxels)
        assert volume.spacing == (1.0, 1.0, 1.0)
    assert "by names" in one.notes[0]
    assert "TIFF has no positions: read as axial, 1 mm apart, by pages" in other.notes[0]


def test_jpeg_slices_are_what_pillow_decodes_also_as_equal_colours(tmp_path):
    folder = write_pictures(tmp_path / "gray", GRAY, ".jpg", quality=90)
    volume = READERS.read(folder)
    for k in range(9):
        assert np.array_equal(volume.array[..., k].T, np.asarray(Image.open(folder / f"slice{k}.jpg")))
    assert np.abs(volume.array.astype(int) - GRAY).mean() < 8
    (tmp_path / "rgb").mkdir()
    for k in range(9):
        Image.open(folder / f"slice{k}.jpg").convert("RGB").save(tmp_path / "rgb" / f"{k}.JPEG", quality=95)
    assert READERS.read(tmp_path / "rgb").array.shape == GRAY.shape


def test_a_stack_takes_the_spacing_beside_it(tmp_path):
    (tmp_path / "slices.toml").write_text('spacing = [3.0, 0.7, 0.8]\naxis = "coronal"\n')
    volume = READERS.read(stack(tmp_path / "s.tif", GRAY))
    assert volume.spacing == (0.8, 0.7, 3.0)
    assert volume.notes == ()


def test_stacks_in_a_folder_are_scans_and_pair_with_labels(tmp_path):
    for name in ("p1", "p2"):
        stack(tmp_path / "images" / f"{name}.tif", GRAY)
        stack(tmp_path / "labels" / f"{name}.tif", (GRAY > 90).astype(np.uint8), compression="tiff_deflate")
    scans = list_scans(dataset_of(str(tmp_path)), tmp_path / "unused")
    assert {scan.name: scan.label.name for scan in scans} == {"p1": "p1.tif", "p2": "p2.tif"}
    label = READERS.read_label(scans[0].label, READERS.read(scans[0].path), Classes.parse("a=1"))
    assert np.array_equal(label.array, GRAY > 90)


def test_jpeg_masks_are_refused_and_png_masks_of_jpeg_slices_are_not(tmp_path):
    write_pictures(tmp_path / "images" / "p1", GRAY, ".jpg")
    write_pictures(tmp_path / "labels" / "p1", (GRAY > 90).astype(np.uint8), ".png")
    image, classes = READERS.read(tmp_path / "images" / "p1"), Classes.parse("a=1")
    assert np.array_equal(READERS.read_label(tmp_path / "labels" / "p1", image, classes).array, GRAY > 90)
    lossy = write_pictures(tmp_path / "lossy" / "p1", 255 * (GRAY > 90).astype(np.uint8), ".jpg")
    packed = stack(tmp_path / "packed.tif", 255 * (GRAY > 90).astype(np.uint8), compression="jpeg")
    for path in (lossy, packed):
        for read in (READERS.classes, lambda path: READERS.read_label(path, image, classes)):
            with pytest.raises(DataError, match="is a label map as JPEG, whose values change around each edge"):
                read(path)


def test_jpeg_masks_stop_a_fine_tuning_before_their_values_become_classes(tmp_path, ssmtl):
    for name in ("p1", "p2"):
        write_pictures(tmp_path / "images" / name, GRAY + (name == "p2"), ".png")
        write_pictures(tmp_path / "labels" / name, 255 * (GRAY > 90).astype(np.uint8), ".jpg")
    done = ssmtl("finetune", "--data", tmp_path, "--out", tmp_path / "ft", "--steps", 1, "--test-scans", 1)
    assert done.returncode == 3
    assert "is a label map as JPEG" in done.stderr


def test_pictures_of_two_formats_and_masks_among_them(tmp_path):
    folder = write_pictures(tmp_path / "p", GRAY, ".jpg")
    write_pictures(folder, GRAY, "_mask.png")
    volume = READERS.read(folder)
    assert volume.array.shape == GRAY.shape
    assert "9 masks beside its slices" in str(volume.notes)
    write_pictures(folder, GRAY, ".tif")
    assert "holds slices as JPEG and as TIFF: copies, or those of two scans" in refused(folder)


def described(file: Path, text: str) -> Path:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = text
    return stack(file, GRAY, tiffinfo=info)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ImageJ=1.53t\nimages=9\nchannels=3\nslices=3\n", "has 3 channels in its pages"),
        ("ImageJ=1.53t\nimages=9\nslices=3\nframes=3\nhyperstack=true\n", "has 3 times in its pages"),
        ('<?xml?><OME><Pixels SizeC="3" SizeT="1" SizeZ="3"/></OME>', "has 3 channels in its pages"),
        ('<?xml?><OME><Pixels SizeC="1" SizeT="1" SizeZ="9"/></OME>', ""),
        ("ImageJ=1.53t\nimages=9\nslices=9\nunit=mm\nspacing=2.5\n", ""),
    ],
)
def test_pages_that_are_channels_or_times_are_refused(tmp_path, text, said):
    file = described(tmp_path / "s.tif", text)
    if said:
        assert said in refused(file)
    else:
        assert np.array_equal(READERS.read(file).array, GRAY)


def test_what_is_wrong_with_pictures_is_said(tmp_path):
    file = stack(tmp_path / "s.tif", GRAY)
    file.write_bytes(file.read_bytes()[:-900])
    assert "is damaged or not a TIFF" in refused(file)
    folder = write_pictures(tmp_path / "p", GRAY, ".jpg")
    (folder / "slice4.jpg").write_bytes((folder / "slice4.jpg").read_bytes()[:-60])
    assert "slice4.jpg: is damaged or not a JPEG" in refused(folder)
    single = write_pictures(tmp_path / "one", GRAY[..., :1], ".tif") / "slice0.tif"
    assert "is TIFF of one page, one slice; give the folder" in refused(single)
    gray = Image.fromarray(np.ascontiguousarray(GRAY[..., 0].T))
    Image.merge("RGB", (gray, gray.rotate(180), gray)).save(folder / "slice4.jpg")
    assert "slice4.jpg: has colours" in refused(folder)
    pages = [Image.fromarray(GRAY[:n, :, 0]) for n in (20, 10)]
    pages[0].save(tmp_path / "sizes.tif", save_all=True, append_images=pages[1:])
    assert "has slices of different sizes: sizes.tif, page 1 has" in refused(tmp_path / "sizes.tif")


def test_white_as_0_is_refused(tmp_path):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[262] = 0
    assert "stores white as 0" in refused(stack(tmp_path / "s.tif", GRAY, tiffinfo=info))


@pytest.mark.parametrize("head", [b"", b"II", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff", b"II+\0\x08\0\0\0"])
def test_a_damaged_header_is_no_stack(tmp_path, head):
    (tmp_path / "s.tif").write_bytes(head)
    assert not READERS.can_read(tmp_path / "s.tif")


def test_a_folder_of_scans_with_previews_keeps_its_scans(tmp_path):
    write_pair(tmp_path, "p1")
    write_pictures(tmp_path / "images", GRAY, ".jpg")
    scans = list_scans(dataset_of(str(tmp_path)), tmp_path / "unused")
    assert [scan.name for scan in scans if not scan.unfit] == ["p1"]
