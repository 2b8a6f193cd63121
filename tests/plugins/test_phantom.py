"""The phantom is deterministic, anatomically ordered in world mm, and hard enough to need context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from ssmtl_datasets.phantom import LABELS, Modality, PhantomScan, make_scan, write_phantom
from ssmtl_toolkit.data.volume import Stack, Volume

MODALITIES: tuple[Modality, ...] = ("ct", "mri")


@pytest.fixture(scope="module")
def scans() -> dict[Modality, list[PhantomScan]]:
    return {modality: [make_scan(patient, modality) for patient in range(1, 7)] for modality in MODALITIES}


def centroid(label: NDArray[Any], affine: NDArray[np.float64], structure: str) -> NDArray[np.float64]:
    """Middle of a structure in mm, RAS+."""
    voxels = np.argwhere(label == LABELS[structure])
    assert len(voxels), f"no voxel of {structure}"
    return np.asarray(nib.affines.apply_affine(affine, voxels.mean(axis=0)))


def slices_of(scan: PhantomScan) -> Stack:
    return Stack.of(Volume(scan.image, scan.affine, (1, 1, 1)), "acquisition")


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
def test_the_same_arguments_give_the_same_scan_whatever_was_made_before(modality, scans):
    again = make_scan(3, modality)
    np.testing.assert_array_equal(again.image, scans[modality][2].image)
    np.testing.assert_array_equal(again.label, scans[modality][2].label)
    np.testing.assert_array_equal(again.affine, scans[modality][2].affine)


@pytest.mark.parametrize("modality", MODALITIES)
def test_patients_differ_in_shape_contrast_and_place(modality, scans):
    volumes = {scan.label.astype(bool).sum() for scan in scans[modality]}
    blood = {scan.image[scan.label == LABELS["LV"]].mean().round() for scan in scans[modality]}
    corners = {tuple(scan.affine[:3, 3].round(3)) for scan in scans[modality]}
    assert len(volumes) == len(blood) == len(corners) == 6
    assert len({scan.patient for scan in scans[modality]}) == 6


def test_another_seed_and_another_modality_give_another_patient(scans):
    assert centroid_of_lv(make_scan(1, "ct", seed=1)) != centroid_of_lv(scans["ct"][0])
    assert centroid_of_lv(scans["mri"][0]) != centroid_of_lv(scans["ct"][0])


def centroid_of_lv(scan: PhantomScan) -> tuple[float, ...]:
    return tuple(centroid(scan.label, scan.affine, "LV"))


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_patient_has_the_seven_structures_and_no_other_label(modality, scans):
    for scan in scans[modality]:
        values, counts = np.unique(scan.label, return_counts=True)
        assert set(values) == {0, *LABELS.values()}, scan.patient
        assert counts.min() > 200, scan.patient


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_heart_lies_in_the_body_as_anatomy_has_it(modality, scans):
    for scan in scans[modality]:
        at = {name: centroid(scan.label, scan.affine, name) for name in LABELS}
        right, front, up = np.stack([*at.values()]).T
        order = dict(zip(at, zip(right, front, up, strict=True), strict=True))
        assert order["LV"][0] < order["RV"][0], "the left ventricle is to the patient's left of the right one"
        assert order["LA"][0] < order["RA"][0], "the left atrium is to the patient's left of the right one"
        assert order["RV"][1] > order["LV"][1] > order["LA"][1], "right ventricle in front, left atrium behind"
        assert order["LA"][2] > order["LV"][2], "the left atrium is above its ventricle"
        assert min(order["aorta"][2], order["PA"][2]) > max(order["LV"][2], order["RV"][2]), scan.patient
        assert np.linalg.norm(at["LV"] - at["myocardium"]) < 20, "the myocardium is around the left ventricle"


@pytest.mark.parametrize(("modality", "axis"), [("ct", "axial"), ("mri", "sagittal")])
def test_slices_lie_along_the_axis_of_the_acquisition(modality, axis, scans):
    for scan in scans[modality]:
        assert slices_of(scan).axis == axis
        assert scan.image.shape[:2] == (96, 96)


@pytest.mark.parametrize("modality", MODALITIES)
def test_patients_store_their_axes_in_different_directions(modality, scans):
    assert len({nib.aff2axcodes(scan.affine) for scan in scans[modality]}) > 1


@pytest.mark.parametrize("modality", MODALITIES)
def test_voxels_have_the_size_of_a_coarse_clinical_scan(modality, scans):
    for scan in scans[modality]:
        column, row, between = nib.affines.voxel_sizes(scan.affine)
        assert column == pytest.approx(row)
        assert 2 < column < 4
        assert 2 < between < 5
        assert 110 < between * scan.image.shape[2] < 200, "the heart fits in mm"


def test_ct_is_in_hounsfield_units_and_mri_has_no_negative_signal(scans):
    for scan in scans["ct"]:
        assert scan.image.min() >= -1024
        assert scan.image.max() <= 3071
        assert 20 < np.median(scan.image[scan.label > 0]) < 400
        assert np.median(scan.image[:4, :4]) < -850, "the corner of the field of view is air"
    assert all(scan.image.min() >= 0 for scan in scans["mri"])


@pytest.mark.parametrize("modality", MODALITIES)
def test_neighbouring_slices_are_more_alike_than_slices_five_apart(modality, scans):
    for scan in scans[modality]:
        slices = slices_of(scan).slices[:, 0]

        def difference(t: int, slices: NDArray[Any] = slices) -> float:
            return float(np.abs(slices[t:] - slices[:-t]).mean())

        assert 1.3 * difference(1) < difference(5), scan.patient


@pytest.mark.parametrize("modality", MODALITIES)
def test_structures_end_within_the_stack(modality, scans):
    for scan in scans[modality]:
        present = (scan.label == LABELS["LV"]).any(axis=(0, 1))
        assert not present[0]
        assert not present[-1]
        assert 5 < present.sum() < 0.7 * len(present)


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_threshold_on_intensity_finds_a_chamber(modality, scans):
    for structure in ("LV", "RV", "LA", "RA"):
        best = [best_threshold_iou(scan, LABELS[structure]) for scan in scans[modality]]
        assert np.median(best) < 0.3, structure


def best_threshold_iou(scan: PhantomScan, value: int) -> float:
    """Best IoU of a structure with any window [low, high] of intensities, chosen with the label known."""
    inside = scan.image[scan.label == value]
    edges = np.quantile(inside, np.linspace(0, 1, 21))
    hits = np.histogram(inside, edges)[0].cumsum()
    all_ = np.histogram(scan.image, edges)[0].cumsum()
    windows = [(hits[j] - hits[i], all_[j] - all_[i]) for i in range(20) for j in range(i + 1, 20)]
    return max(float(hit / (found + len(inside) - hit)) for hit, found in windows)


@pytest.mark.slow
def test_files_are_byte_identical_when_written_again(tmp_path: Path):
    first, second = tmp_path / "one", tmp_path / "two"
    images = write_phantom(first, patients=2)
    write_phantom(second, patients=2)
    assert images == [first / "images" / f"phantom_ct_00{i}.nii.gz" for i in (1, 2)]
    written = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(written) == 4, "two images, two labels and no temporary file"
    for path in written:
        assert (first / path).read_bytes() == (second / path).read_bytes()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_file_holds_exactly_the_scan_with_its_place_in_the_world(modality, tmp_path, scans):
    (path,) = write_phantom(tmp_path, patients=1, modality=modality)
    image, label = nib.load(path), nib.load(tmp_path / "labels" / path.name)
    scan = scans[modality][0]
    np.testing.assert_array_equal(image.get_fdata(), scan.image)
    np.testing.assert_array_equal(np.asarray(label.dataobj), scan.label)
    for file in (image, label):
        np.testing.assert_allclose(file.get_sform(), scan.affine, atol=1e-3)
        np.testing.assert_allclose(file.get_qform(), scan.affine, atol=1e-2)
        assert (int(file.header["sform_code"]), int(file.header["qform_code"])) == (1, 1)
        assert file.header.get_xyzt_units()[0] == "mm"


def test_a_patient_whose_files_are_there_is_not_made_again_but_a_lost_label_is(tmp_path: Path):
    (image,) = write_phantom(tmp_path, patients=1)
    label = tmp_path / "labels" / image.name
    before = label.read_bytes()
    image.write_bytes(b"kept")
    write_phantom(tmp_path, patients=1)
    assert image.read_bytes() == b"kept"
    label.unlink()
    write_phantom(tmp_path, patients=1)
    assert label.read_bytes() == before
    assert image.read_bytes() != b"kept"
