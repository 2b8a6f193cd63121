"""From volumes to slices: cut the right way, resized right, each slice normalised by itself."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ssmtl_toolkit.data.prepare import normalise, prepare, resize, resize_labels
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError


def volume(array, affine=None, slice_axis=2):
    affine = np.diag([0.8, 0.9, 2.0, 1.0]) if affine is None else affine
    return Volume(array, affine, tuple(nib.affines.voxel_sizes(affine)), slice_axis)


def test_each_slice_has_zero_mean_and_unit_variance_whatever_the_scale_of_the_scan():
    rng = np.random.default_rng(0)
    for scale, shift in ((1.0, 0.0), (1.7e6, 3e6), (1e-4, 0.2)):
        array = (rng.normal(0, 1, (32, 32, 5)) * scale + shift).astype(np.float32)
        slices = prepare(volume(array), Slicing(size=32)).slices.astype(np.float64)
        assert np.abs(slices.mean(axis=(2, 3))).max() < 1e-3
        assert np.abs(slices.std(axis=(2, 3)) - 1).max() < 1e-3


@pytest.mark.parametrize("value", [0.0, 7.0, -1024.0, 1.7e6, 0.1])
def test_a_blank_slice_becomes_zeros_and_is_counted(value):
    array = np.random.default_rng(0).normal(0, 1, (16, 16, 3)).astype(np.float32)
    array[:, :, 1] = value
    prepared = prepare(volume(array), Slicing(size=16))
    assert prepared.blank == 1
    assert not prepared.slices[1].any()
    assert prepared.slices[0].any()


@pytest.mark.parametrize(
    "kind", [np.float32, np.int64, ">f8", "<f4", None], ids=["float32", "whole", "big-endian", "little", "by columns"]
)
def test_an_affine_of_any_kind_of_numbers_cuts_as_one_of_doubles(kind):
    array = np.random.default_rng(0).normal(0, 1, (6, 7, 8)).astype(np.float32)
    usual = np.array([[0, 0, -2, 5], [3, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], np.float64)
    other = np.asfortranarray(usual) if kind is None else usual.astype(kind)
    for axis in ("acquisition", "axial", "coronal", "sagittal"):
        ours, theirs = (prepare(volume(array, each), Slicing(size=16, axis=axis)).slices for each in (usual, other))
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"affine": np.eye(4)[:3]}, r"has an affine of shape \(3, 4\); \(4, 4\) is needed"),
        ({"spacing": (1.0, 0.0, 1.0)}, r"has a spacing of \(1.0, 0.0, 1.0\) mm; three lengths above 0"),
        ({"spacing": (1.0, 1.0)}, r"has a spacing of \(1.0, 1.0\) mm"),
        ({"spacing": (1.0, np.nan, 1.0)}, "has a spacing of"),
        ({"slice_axis": 7}, "has 7 as its slice axis; 0, 1 or 2 is needed"),
        ({"array": np.ones((3, 4, 5), complex)}, "has voxels of type complex128; real numbers are needed"),
        ({"array": np.ones((3, 4, 5), object)}, "has voxels of type object"),
    ],
)
def test_what_no_scan_is_is_refused_where_it_is_made(wrong, told):
    right = {"array": np.ones((3, 4, 5)), "affine": np.eye(4), "spacing": (1.0, 1.0, 1.0)}
    with pytest.raises(DataError, match=told):
        Volume(**{**right, **wrong})


def test_shrinking_is_anti_aliased():
    stripes = np.tile(np.array([0.0, 1.0], dtype=np.float32), 32)[None, None, None].repeat(64, axis=2)
    assert np.abs(resize(stripes, 16)[..., 1:-1] - 0.5).max() < 0.05  # without it: 0 or 1 by chance


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 16), (50, 35, 48), (20, 31, 48), (97, 41, 32)])
def test_resizing_agrees_with_pillow(height, width, size):
    image = np.random.default_rng(0).normal(0, 1, (height, width)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    assert np.abs(resize(image[None, None], size)[0, 0] - expected).max() < 1e-4


def test_labels_keep_their_values_and_stay_where_the_image_is():
    labels = np.zeros((1, 60, 60), dtype=np.int64)
    labels[0, 12:24, 30:54] = 500
    labels[0, 40:50, 6:12] = 205
    small = resize_labels(labels, 20, 30)
    assert set(np.unique(small)) == {0, 205, 500}
    rows, columns = np.nonzero(small[0] == 500)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 15, 26)
    image = resize((labels == 500).astype(np.float32)[:, None], 20)
    assert np.array_equal(image[0, 0] > 0.5, resize_labels(labels, 20, 20)[0] == 500)


def test_the_window_clips_before_anything_else():
    array = np.full((16, 16, 2), -1000.0, dtype=np.float32)
    array[4:8, 4:8] = 50
    array[8, 8] = 30000  # metal
    windowed = prepare(volume(array), Slicing(size=16, window=(-100, 300))).slices[0]
    assert windowed.max() < 15 < prepare(volume(array), Slicing(size=16)).slices[0].max()


@pytest.mark.parametrize(("axis", "number", "spacing"), [("axial", 7, 2.0), ("coronal", 6, 0.9), ("sagittal", 5, 0.8)])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_the_axis_is_anatomical_whatever_the_order_in_the_file(axis, number, spacing, codes):
    x, y, z = np.mgrid[:5, :6, :7]
    ras = nib.Nifti1Image((100 * x + 10 * y + z).astype(np.int16), np.diag([0.8, 0.9, 2.0, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(ras.affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = ras.as_reoriented(turn)
    here = prepare(volume(np.asarray(turned.dataobj), turned.affine), Slicing(axis=axis, size=8))
    there = prepare(volume(np.asarray(ras.dataobj), ras.affine), Slicing(axis=axis, size=8))
    assert here.slices.shape[0] == number
    assert here.spacing == pytest.approx(spacing)
    assert np.array_equal(here.slices, there.slices)


def test_axial_slices_run_upwards_and_look_as_radiologists_print_them():
    array = np.zeros((8, 8, 4), dtype=np.float32)
    array[6, 6, :] = 1  # to the patient's right and front
    array[:, :, 3] *= 5  # the top slice
    slices = prepare(volume(array), Slicing(axis="axial", size=8)).slices
    row, column = np.unravel_index(slices[0, 0].argmax(), (8, 8))
    assert (row, column) == (1, 1)  # front is up, the patient's right is left in the picture


@pytest.mark.parametrize(("slice_axis", "axis"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_acquisition_is_the_axis_the_scanner_stepped_along(slice_axis, axis):
    array = np.random.default_rng(0).normal(0, 1, (5, 6, 7)).astype(np.float32)
    prepared = prepare(volume(array, slice_axis=slice_axis), Slicing(size=8))
    assert prepared.axis == axis
    assert len(prepared.slices) == array.shape[slice_axis]


def test_normalise_does_not_change_its_input():
    slices = np.random.default_rng(0).normal(5, 2, (2, 3, 4, 4)).astype(np.float32)
    before = slices.copy()
    normalise(slices)
    assert np.array_equal(slices, before)
