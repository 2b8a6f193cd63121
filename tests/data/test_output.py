"""What is written lies where the scan lies, to the bit, and says nothing of the patient."""

import errno

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.places import shared_data
from ssmtl_nifti import Nifti
from ssmtl_toolkit.data import writing
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.overlay import overlay
from ssmtl_toolkit.data.postprocess import keep_largest
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.data.writing import output_name, scratch_array, write_like
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError


def real_files():
    root = shared_data() / "odd"
    return sorted(p for p in root.rglob("*") if Nifti().matches(p)) if root.is_dir() else []


def geometry(image):
    header = image.header
    codes = [int(header["sform_code"]), int(header["qform_code"])]
    units = header.get_xyzt_units()[0]
    return codes, units, np.asarray(header.get_zooms()[:3]).tolist(), nib.aff2axcodes(image.affine)


@pytest.mark.slow
def test_every_odd_scan_that_can_be_read_is_written_on_its_own_grid(tmp_path):
    files = real_files()
    if not files:
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    read = 0
    for i, file in enumerate(files):
        try:
            volume = Nifti().read(file, 0)
        except DataError:
            continue
        for axis in ("axial", "coronal", "sagittal"):
            stack = Stack.of(volume, axis)
            assert np.array_equal(stack.back(stack.slices[:, 0]), volume.array), file
        labels = np.random.default_rng(i).integers(0, 4, volume.array.shape, dtype=np.uint8)
        target = tmp_path / f"{i}.nii.gz"
        write_like(target, labels, volume, what="labels")
        source, written = nib.load(file), nib.load(target)
        assert np.array_equal(np.asanyarray(written.dataobj), labels)
        assert np.array_equal(written.affine, source.affine), file
        assert geometry(written) == geometry(source), file
        assert written.get_data_dtype() == np.uint8
        read += 1
    assert read >= 20


rotations = st.tuples(*[st.floats(-3, 3)] * 3)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=rotations,
    zooms=st.tuples(*[st.floats(0.3, 6)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    turn=st.sampled_from(["RAS", "LPS", "SAR", "PIL", "AIR"]),
    codes=st.sampled_from([(1, 1), (2, 0), (0, 1), (1, 4), (0, 0)]),
    units=st.sampled_from(["mm", "meter", "micron", "unknown"]),
)
def test_any_orientation_code_and_unit_comes_back_to_the_bit(tmp_path, angles, zooms, origin, turn, codes, units):
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    rotation = nib.eulerangles.euler2mat(*angles)
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(zooms)
    affine[:3, 3] = origin
    affine = affine @ nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(turn), array.shape)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=codes[0])
    image.set_qform(affine, code=codes[1])
    image.header.set_xyzt_units(units)
    file = tmp_path / "source.nii"
    nib.save(image, file)
    volume = Nifti().read(file)
    write_like(tmp_path / "out.nii.gz", array + 1, volume, what="image")
    source, written = nib.load(file), nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(written.affine, source.affine)
    assert geometry(written) == geometry(source)
    assert np.array_equal(written.get_fdata(), array + 1)
    again = Nifti().read(tmp_path / "out.nii.gz")
    assert np.array_equal(again.affine, volume.affine)
    assert again.spacing == volume.spacing


def test_a_scan_without_a_nifti_header_gets_its_affine_in_mm(tmp_path):
    affine = np.array([[0, 0.7, 0, 3], [-0.9, 0, 0, 2], [0, 0, 2.5, -1], [0, 0, 0, 1]], np.float64)
    volume = Volume(np.zeros((3, 4, 5)), affine, (0.9, 0.7, 2.5), 2)
    write_like(tmp_path / "x.nii", np.ones((3, 4, 5), np.uint16), volume, what="labels")
    written = nib.load(tmp_path / "x.nii")
    assert np.allclose(written.affine, affine, atol=1e-6)
    assert np.allclose(written.get_qform(), affine, atol=1e-5)
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.header.get_zooms() == pytest.approx((0.9, 0.7, 2.5))


def test_nothing_that_may_name_a_patient_is_carried_over(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = b"MUELLER"
    image.header["cal_max"] = 7
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"MUELLER^HANS"))
    nib.save(image, tmp_path / "x.nii")
    write_like(tmp_path / "y.nii", np.ones((3, 3, 3), np.uint8), Nifti().read(tmp_path / "x.nii"), what="labels")
    assert b"MUELLER" in (tmp_path / "x.nii").read_bytes()
    assert b"MUELLER" not in (tmp_path / "y.nii").read_bytes()
    header = nib.load(tmp_path / "y.nii").header
    assert float(header["cal_max"]) == 0
    assert len(header.extensions) == 0


def test_equal_input_gives_equal_bytes(tmp_path):
    volume = Volume(np.zeros((3, 4, 5)), np.eye(4), (1, 1, 1), 2)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_like(tmp_path / name, np.ones((3, 4, 5, 2), np.float32), volume, what="probabilities")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert nib.load(tmp_path / "a.nii.gz").shape == (3, 4, 5, 2)


def test_a_write_that_fails_leaves_what_was_there_and_names_the_file(tmp_path, monkeypatch):
    volume = Volume(np.zeros((3, 4, 5)), np.eye(4), (1, 1, 1), 2)
    target = tmp_path / "x.nii.gz"
    write_like(target, np.ones((3, 4, 5), np.uint8), volume, what="labels")
    before = target.read_bytes()

    def full(array):
        yield np.zeros(10, np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "_blocks", full)
    with pytest.raises(
        SsmtlError, match=r"x\.nii\.gz: the labels cannot be written \(No space left on device, .*; free some"
    ):
        write_like(target, np.zeros((3, 4, 5), np.uint8), volume, what="labels")
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.nii.gz"]


def test_other_suffixes_shapes_and_types_are_refused(tmp_path):
    volume = Volume(np.zeros((3, 4, 5)), np.eye(4), (1, 1, 1), 2)
    with pytest.raises(UsageError, match=r"as \.nii or \.nii\.gz only"):
        write_like(tmp_path / "x.png", np.ones((3, 4, 5), np.uint8), volume, what="labels")
    with pytest.raises(ValueError, match="expected an array of shape"):
        write_like(tmp_path / "x.nii", np.ones((3, 5, 4), np.uint8), volume, what="labels")
    with pytest.raises(ValueError, match="got float64"):
        write_like(tmp_path / "x.nii", np.ones((3, 4, 5)), volume, what="labels")


def flood(mask):
    """Connected parts of a mask, corners included, by walking through it."""
    left, parts = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        front = part = {left.pop()}
        while front:
            near = {(x + a, y + b, z + c) for x, y, z in front for a, b, c in np.ndindex(3, 3, 3)}
            front = {(x - 1, y - 1, z - 1) for x, y, z in near} & left
            left -= front
            part = part | front
        parts.append(part)
    return parts


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_part_of_each_class_is_that_of_a_flood_fill(seed):
    rng = np.random.default_rng(seed)
    index = (rng.integers(1, 3, (6, 7, 5)) * (rng.random((6, 7, 5)) < 0.12)).astype(np.uint8)
    kept = keep_largest(index, [[1], [2]])
    for label in (1, 2):
        parts = flood(index == label)
        found = {tuple(p) for p in np.argwhere(kept == label)}
        assert found in parts
        assert len(found) == max(map(len, parts))
    assert not ((kept != 0) & (kept != index)).any()


def test_room_for_large_results_is_zero_and_gone_afterwards(tmp_path):
    with scratch_array((4, 5, 6, 2), np.float32, tmp_path) as array:
        assert array.shape == (4, 5, 6, 2)
        assert not array.any()
        array[1, 2, 3] = 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "name"), [("x.nii", "x"), ("x.NII.GZ", "x"), ("x.hdr", "x"), ("p.1.2.nii.gz", "p.1.2"), ("a.mha", "a")]
)
def test_outputs_are_called_after_their_scans(tmp_path, source, name):
    assert output_name(tmp_path / source) == f"{name}.nii.gz"


def test_an_overlay_shows_the_classes_in_their_colours_and_true_proportions(tmp_path):
    slices = np.random.default_rng(0).normal(size=(5, 20, 40)).astype(np.float32)
    index = np.zeros(slices.shape, np.uint8)
    index[2, 5:15, 5:15], index[3, 5:15, 25:35] = 1, 2
    overlay(tmp_path / "x.png", slices, index, (3.0, 2.0, 1.0), Classes.parse("heart=1,liver=2"))
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    tile = (picture == (230, 159, 0)).all(axis=2), (picture == (86, 180, 233)).all(axis=2)
    assert all(mask.sum() > 50 for mask in tile)
    assert picture.shape == (2 * 176 + 18 + 2, 3 * 176, 3)  # five slices of 40 x 40 mm in two rows, and the legend
    overlay(tmp_path / "y.png", slices, index * 0, (3.0, 1.0, 1.0), Classes.parse("heart=1"))
    overlay(tmp_path / "z.png", slices, index * 0, (3.0, 1.0, 1.0), Classes.parse("heart=1"))
    assert (tmp_path / "y.png").read_bytes() == (tmp_path / "z.png").read_bytes()


@pytest.mark.slow
def test_an_overlay_shows_slices_without_a_class_and_says_where_it_shows_every_third_only(tmp_path):
    slices = np.random.default_rng(0).normal(size=(250, 20, 20)).astype(np.float32)
    index = np.zeros(slices.shape, np.uint8)
    index[3, 5:15, 5:15] = 1
    overlay(tmp_path / "all.png", slices[:100], index[:100], (1.0, 1.0, 1.0), Classes.parse("heart=1"))
    overlay(tmp_path / "third.png", slices, index, (1.0, 1.0, 1.0), Classes.parse("heart=1"))
    whole, third = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("all", "third"))
    assert whole.shape == (10 * 176 + 20, 10 * 176, 3)
    assert third.shape == (9 * 176 + 20, 10 * 176, 3)  # 84 of 250 slices
    place = slice(22 + 40, 400)  # behind the legend's "heart"
    assert not whole[-18:, place].any()
    assert third[-18:, place].any()
    assert (third[:176, 176:352] == (230, 159, 0)).all(axis=2).any()  # slice 3 is the second one shown
