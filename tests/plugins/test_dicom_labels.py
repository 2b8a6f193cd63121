"""DICOM SEG and RTSTRUCT as label maps: on the grid of their scan, named, and refused where they do not fit."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

import ssmtl_toolkit as ssmtl
from helpers.dicom_files import AFFINE, PATIENT, VOXELS
from helpers.label_files import rtstruct, sources, write_scan_series, write_seg
from helpers.small import SMALL
from ssmtl_formats.labels import voxels_of
from ssmtl_formats.polygons import filled
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Scan

READERS = installed_readers()
SHAPE = VOXELS.shape  # columns, rows, slices
LPS_STEP = np.array([-1, -1, 1]) * AFFINE[:3, 2]
CLASSES = Classes.parse("liver=1,tumour=2")
SCAN = Volume(VOXELS, AFFINE, tuple(np.linalg.norm(AFFINE[:3, :3], axis=0).tolist()))


def masks() -> np.ndarray:
    """A liver in slices 2 to 6, a tumour in it in slices 3 and 4, and outside of it in 5."""
    made = np.zeros((*SHAPE, 2), np.uint8)
    made[3:15, 4:20, 2:7, 0] = 1
    made[5:9, 6:11, 3:5, 1] = 1
    made[0:2, 0:3, 5, 1] = 1
    return made


def truth() -> np.ndarray:
    """By hand: the tumour is the smaller one."""
    made = masks()
    return np.where(made[..., 1] > 0, 2, made[..., 0])


def refused(path: Path, image: Volume = SCAN) -> str:
    with pytest.raises(DataError) as error:
        READERS.read_label(path, image, CLASSES)
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(str(path))
    assert PATIENT not in said
    return said.removeprefix(f"{path}: ")


# ---- SEG ----


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_is_painted_onto_its_scan(tmp_path, kind):
    file = write_seg(
        tmp_path / "seg.dcm", sources(), masks() if kind != "LABELMAP" else _apart(), ["liver", "tumour"], kind
    )
    label = READERS.read_label(file, SCAN, CLASSES)
    assert np.array_equal(label.array, truth())
    assert np.array_equal(label.affine, AFFINE)
    assert READERS.classes(file) == {"liver": (1,), "tumour": (2,)}
    assert ("40 voxels belong to several segments" in str(label.notes)) == (kind != "LABELMAP")
    assert ("is fractional" in str(label.notes)) == (kind == "FRACTIONAL")


def _apart() -> np.ndarray:
    made = masks()
    made[..., 0] &= 1 - made[..., 1]
    return made


def test_it_agrees_with_highdicom(tmp_path):
    """Sizes that are no multiples of 8, so that frames begin within a byte."""
    import highdicom as hd

    affine = np.diag([-0.7, -0.8, 2.5, 1.0])
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 9, (7, 5, 6)).astype(np.int16)
    made = (rng.random((7, 5, 6, 1)) < 0.4).astype(np.uint8)
    file = write_seg(tmp_path / "seg.dcm", sources(voxels, affine), made, ["x"])
    label = READERS.read_label(file, Volume(voxels, affine, (1.0, 1.0, 1.0)), Classes.parse("x=1"))
    theirs = hd.seg.segread(file).get_volume(combine_segments=True)
    ours = np.argwhere(label.array) @ affine[:3, :3].T + affine[:3, 3]
    lps = np.argwhere(theirs.array) @ theirs.affine[:3, :3].T + theirs.affine[:3, 3]
    assert np.abs(np.sort(ours, axis=0) - np.sort(lps * [-1, -1, 1], axis=0)).max() < 1e-4
    assert np.array_equal(label.array, made[..., 0])


def test_it_is_placed_on_a_scan_that_is_stored_in_another_order(tmp_path):
    """As dcm2niix stores it: rows from front to back, slices from the other end."""
    file = write_seg(tmp_path / "seg.dcm", sources(), masks(), ["liver", "tumour"])
    affine = AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, SHAPE[1] - 1], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1.0]])
    label = READERS.read_label(file, Volume(VOXELS[:, ::-1, ::-1], affine, SCAN.spacing), CLASSES)
    assert np.array_equal(label.array, truth()[:, ::-1, ::-1])


def test_a_scan_with_fewer_slices_gets_those_that_it_has(tmp_path):
    file = write_seg(tmp_path / "seg.dcm", sources(), masks(), ["liver", "tumour"])
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [0, 0, 3, 1])[:3]
    label = READERS.read_label(file, Volume(VOXELS[..., 3:], affine, SCAN.spacing), CLASSES)
    assert np.array_equal(label.array, truth()[..., 3:])
    assert "192 labelled voxels lie outside of its image" in str(label.notes)


def test_unevenly_spaced_slices_get_the_frames_at_their_true_positions(tmp_path):
    at = [0, 4.2, 8.4, 12.6, 20, 27.4, 34.8, 42.2, 49.6]
    straight = np.diag([-0.7, -0.8, 2.0, 1.0])
    images = sources(affine=straight)
    for data, z in zip(images, at, strict=True):
        data.ImagePositionPatient = [0, 0, z]
    file = write_seg(tmp_path / "seg.dcm", images, masks(), ["liver", "tumour"])
    scan = READERS.read(write_scan_series(tmp_path / "scan", images), uneven=True)
    assert np.array_equal(READERS.read_label(file, scan, CLASSES).array, truth())


def test_a_segmentation_on_other_voxels_is_refused(tmp_path):
    file = write_seg(tmp_path / "seg.dcm", sources(), masks(), ["liver", "tumour"])
    for change, said in (
        (np.diag([1, 1, 1.2, 1]), "do not lie on the voxels of its image"),
        (np.diag([0.5, 0.5, 1, 1]), "do not lie on the voxels of its image"),
    ):
        assert said in refused(file, Volume(VOXELS, AFFINE @ change, SCAN.spacing))


def _changed(file: Path, change) -> Path:
    data = pydicom.dcmread(file)
    change(data)
    data.save_as(file)
    return file


def test_what_is_wrong_with_a_segmentation_is_said(tmp_path):
    def fresh() -> Path:
        return write_seg(tmp_path / "seg.dcm", sources(), masks(), ["liver", "tumour"])

    def lose_segment(data):
        del data.SegmentSequence[1]

    def lose_frame(data):
        del data.PerFrameFunctionalGroupsSequence[-1]

    def lose_place(data):
        del data.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence

    def grow(data):
        data.Rows = data.Columns = 65535

    for change, said in (
        (lose_segment, "has voxels of segment 2, which it does not describe"),
        (lose_frame, "but describes"),
        (lose_place, "has no ImagePositionPatient"),
        (grow, "is cut short"),
        (lambda data: setattr(data, "SegmentSequence", []), "describes no segments"),
        (lambda data: setattr(data.SegmentSequence[1], "SegmentNumber", 1), "two segments with the number 1"),
    ):
        assert said in refused(_changed(fresh(), change))


def test_single_frames_of_other_writers_and_big_endian_are_read(tmp_path):
    """pydicom's liver_1frame.dcm is by dcmqi, without the number of frames."""
    folder = Path(importlib.util.find_spec("pydicom").origin).parent / "data" / "test_files"
    for name in ("liver_1frame.dcm", "liver_expb_1frame.dcm"):
        data = pydicom.dcmread(folder / name)
        del data.PerFrameFunctionalGroupsSequence[1:]  # of the frames that were cut out of this copy
        data.save_as(tmp_path / name)
        shared, own = data.SharedFunctionalGroupsSequence[0], data.PerFrameFunctionalGroupsSequence[0]
        turn = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
        pixel = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = turn[0] * pixel[1], turn[1] * pixel[0]
        affine[:3, 2] = 3 * np.cross(*turn)
        affine[:3, 3] = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float) - affine[:3, 2]
        image = Volume(np.zeros((512, 512, 3), np.int16), np.diag([-1, -1, 1, 1.0]) @ affine, (1.0, 1.0, 3.0))
        label = READERS.read_label(tmp_path / name, image, Classes.parse("Liver=1"))
        assert np.array_equal(label.array[..., 1], data.pixel_array.T)
        assert not label.array[..., [0, 2]].any()


# ---- RTSTRUCT ----


def circle(centre: tuple[float, float], radius: float, k: float, corners: int = 40) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.c_[centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), np.full(corners, k)]


def drawn(*contours: np.ndarray) -> np.ndarray:
    """The voxels whose centres are inside, by matplotlib."""
    made = np.zeros(SHAPE, bool)
    places = np.argwhere(np.ones(SHAPE[:2]))
    for contour in contours:
        inside = Outline(contour[:, :2]).contains_points(places).reshape(SHAPE[:2])
        made[..., round(contour[0, 2])] ^= inside
    return made


def test_contours_are_filled_on_the_slices_of_their_scan_with_holes(tmp_path):
    liver = [circle((9.3, 11.2), 7.3, k) for k in (2, 3, 4)] + [circle((9.3, 11.2), 3.1, 3)]
    tumour = [circle((6.1, 9.4), 1.6, k) for k in (2, 3)]
    file = rtstruct(tmp_path / "rs.dcm", {"liver": liver, "tumour": tumour, "empty": []}, numbers=[7, 4, 1])
    assert READERS.classes(file) == {"liver": (7,), "tumour": (4,)}
    label = READERS.read_label(file, SCAN, Classes.parse("liver=7,tumour=4"))
    expected = np.where(drawn(*tumour), 4, np.where(drawn(*liver), 7, 0))
    assert np.array_equal(label.array, expected)
    assert len(label.notes) == 1
    assert "voxels belong to several segments" in label.notes[0]
    assert (READERS.read_label(file, SCAN, CLASSES).array == np.where(expected == 7, 1, expected // 2)).all()


def test_contours_are_drawn_on_a_scan_that_is_stored_in_another_order(tmp_path):
    contours = [circle((9.3, 11.2), 7.3, k) for k in (2, 3)]
    file = rtstruct(tmp_path / "rs.dcm", {"liver": contours})
    turn = np.array([[0, 0, 1, 0], [0, -1, 0, SHAPE[1] - 1], [1, 0, 0, 0], [0, 0, 0, 1.0]])  # K J I, J flipped
    image = Volume(VOXELS.transpose(2, 1, 0)[:, ::-1], AFFINE @ turn, (2.5, 0.8, 0.7), 0)
    label = READERS.read_label(file, image, CLASSES)
    assert np.array_equal(label.array, drawn(*contours).transpose(2, 1, 0)[:, ::-1])


def test_contours_of_finer_planes_are_joined_and_those_outside_are_skipped(tmp_path):
    contours = [circle((9.2, 11.3), 4, 2.0), circle((9.2, 11.3), 6, 2.4), circle((9.2, 11.3), 5, 30.0)]
    label = READERS.read_label(rtstruct(tmp_path / "rs.dcm", {"liver": contours}), SCAN, CLASSES)
    assert np.array_equal(label.array, drawn(contours[0]) | drawn(contours[1]))
    assert label.notes == (
        "1 contours lie outside of its image and are skipped",
        "1 contours lie between the slices of its image (up to 0.4 of their distance off) and are drawn on the nearest "
        "one",
    )


def test_what_is_wrong_with_contours_is_said(tmp_path):
    flat, tilted = circle((9.2, 11.3), 5, 3), circle((9.2, 11.3), 5, 3)
    tilted[:, 2] += 0.2 * tilted[:, 0]
    assert "not drawn on the slices of its image" in refused(rtstruct(tmp_path / "a.dcm", {"x": [flat, tilted]}))
    assert "has no closed contours" in refused(rtstruct(tmp_path / "b.dcm", {"x": [flat]}, kind="POINT"))
    odd = rtstruct(tmp_path / "c.dcm", {"liver": [flat]})

    def change(data):
        data.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]

    assert "has a contour of 4 numbers" in refused(_changed(odd, change))
    unknown = rtstruct(tmp_path / "d.dcm", {"liver": [flat]})
    described = _changed(unknown, lambda data: setattr(data.StructureSetROISequence[0], "ROINumber", 5))
    assert "has contours of structure 1, which it does not describe" in refused(described)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 13)), min_size=3, max_size=12))
def test_the_even_odd_rule_is_that_of_counting_crossings(corners):
    polygon = np.array(corners) + 1e-3 * np.pi  # no corner at the height of a centre
    made = filled([polygon], (12, 10))
    for row, column in np.ndindex(12, 10):
        crossings = 0
        for (y0, x0), (y1, x1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if (y0 > row) != (y1 > row):
                crossings += x0 + (row - y0) * (x1 - x0) / (y1 - y0) <= column
        assert made[row, column] == crossings % 2


@settings(max_examples=60, deadline=None)
@given(
    start=st.tuples(*[st.integers(-4, 8)] * 3),
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 2),
    size=st.tuples(*[st.integers(1, 9)] * 2),
)
def test_a_plane_in_any_direction_covers_the_voxels_that_it_shows(start, axes, signs, size):
    mask = np.random.default_rng(0).random(size) < 0.6
    steps = np.zeros((2, 3), int)
    steps[0, axes[0]], steps[1, axes[1]] = signs
    voxels, outside = voxels_of((5, 6, 7), np.array(start), steps, mask)
    there = [start + row * steps[0] + column * steps[1] for row, column in np.argwhere(mask)]
    inside = [tuple(at) for at in there if all(0 <= i < n for i, n in zip(at, (5, 6, 7), strict=True))]
    assert sorted(voxels.tolist()) == sorted((i * 6 + j) * 7 + k for i, j, k in inside)
    assert outside == len(there) - len(inside)


def test_a_contour_far_away_takes_neither_time_nor_memory(tmp_path):
    rng = np.random.default_rng(0)
    assert filled([rng.uniform(-1e9, 1e9, (20000, 2))], (64, 64)).shape == (64, 64)


# ---- where they are found ----


def test_they_are_no_scans_and_say_so(tmp_path):
    seg = write_seg(tmp_path / "seg.dcm", sources(), masks(), ["liver", "tumour"])
    with pytest.raises(
        DataError, match=r"is a DICOM segmentation \(SEG\), the label map of a scan; put it into labels/"
    ):
        READERS.read(seg)
    with pytest.raises(DataError, match=r"is a DICOM structure set \(RTSTRUCT\)"):
        READERS.read(rtstruct(tmp_path / "rs", {"liver": [circle((9.2, 11.3), 5, 3)]}))


def test_a_segmentation_among_slices_is_no_slice(tmp_path):
    folder = write_scan_series(tmp_path / "scan", sources())
    write_seg(folder / "seg.dcm", sources(), masks(), ["liver", "tumour"])
    volume = READERS.read(folder)
    assert np.array_equal(volume.array, VOXELS)
    assert volume.notes == ()


def listed(root: Path) -> dict[str, Scan]:
    return {scan.name: scan for scan in list_scans(dataset_of(str(root)), root / "unused")}


def tcia(root: Path, patient: int, *, seg: int = 1, rt: int = 0) -> None:
    """A patient as TCIA has it: a study with a folder for each series, of the scan and of its label maps."""
    study = root / f"LUNG1-{patient:03d}" / "08-23-2019"
    images = sources(series=patient)
    images[0].PixelData = bytes([patient]) + images[0].PixelData[1:]  # no two patients have the same scan
    write_scan_series(study / "1.000000-CT", images)
    order = [0, 1] if patient % 2 else [1, 0]  # each file numbers its segments in its own way
    for i in range(seg):
        names = [["liver", "tumour"][k] for k in order]
        write_seg(study / f"30{i}.000000-Segmentation" / "1-1.dcm", images, masks()[..., order], names)
    for i in range(rt):
        rtstruct(study / f"40{i}.000000-RTSTRUCT" / "1-1.dcm", {"liver": [circle((9.2, 11.3), 5, 3)]}, series=patient)


def test_series_of_label_maps_are_paired_with_the_scan_that_they_refer_to(tmp_path):
    tcia(tmp_path, 1)
    tcia(tmp_path, 2, seg=1, rt=1)
    tcia(tmp_path, 3, seg=0, rt=1)
    tcia(tmp_path, 4, seg=2)
    found = listed(tmp_path)
    labels = {name[:9]: scan.label for name, scan in found.items() if not scan.unfit}
    folder = {i: tmp_path / f"LUNG1-00{i}" / "08-23-2019" for i in (1, 2, 3)}
    assert labels == {
        "LUNG1-001": folder[1] / "300.000000-Segmentation",
        "LUNG1-002": folder[2] / "300.000000-Segmentation",
        "LUNG1-003": folder[3] / "400.000000-RTSTRUCT",
        "LUNG1-004": None,
    }
    reasons = [scan.unfit for scan in found.values() if scan.unfit]
    assert len(reasons) == 3
    assert all("is one of several label maps of" in reason for reason in reasons)


def test_a_label_map_whose_scan_is_missing_is_listed_with_the_reason(tmp_path):
    tcia(tmp_path, 1)
    write_seg(tmp_path / "other" / "1-1.dcm", sources(series=8), masks(), ["liver", "tumour"])
    assert "is a label map, and its scan is not here" in listed(tmp_path)["other"].unfit


@pytest.mark.parametrize("name", ["labels/p1.dcm", "labels/p1/1-1.dcm", "masks/p1.dcm"])
def test_label_maps_in_labels_are_paired_by_name(tmp_path, name):
    write_scan_series(tmp_path / "images" / "p1", sources())
    write_seg(tmp_path / name, sources(series=5), masks(), ["liver", "tumour"])
    label = listed(tmp_path)["p1"].label
    assert label in (tmp_path / name, (tmp_path / name).parent)
    assert np.array_equal(READERS.read_label(label, SCAN, CLASSES).array, truth())


def test_label_maps_in_labels_of_other_names_are_paired_by_what_they_refer_to(tmp_path):
    write_scan_series(tmp_path / "images" / "p1", sources(series=1))
    write_seg(tmp_path / "labels" / "export 7.dcm", sources(series=1), masks(), ["liver", "tumour"])
    assert listed(tmp_path)["p1"].label == tmp_path / "labels" / "export 7.dcm"


def test_fine_tuning_on_tcia_scores_each_name_as_one_class(tmp_path):
    for patient in (1, 2, 3):
        tcia(tmp_path / "data", patient)
    told = []

    class Notes(Progress):
        def note(self, text):
            told.append(text)

    options = {"backbone": SMALL, "size": 24, "steps": 2, "test_scans": 1, "surface": False}
    done = ssmtl.finetune(data=str(tmp_path / "data"), out=tmp_path / "ft", progress=Notes(), **options)
    assert done.summary["classes"] == ["liver", "tumour"]
    (said,) = [text for text in told if "by the names" in text]
    assert "which number them differently: values are given by name: liver=1 (in 3 of 3), tumour=2 (in 3 of 3)" in said


def test_evaluate_matches_names(tmp_path):
    tcia(tmp_path, 1)
    label = tmp_path / "LUNG1-001" / "08-23-2019" / "300.000000-Segmentation" / "1-1.dcm"
    swapped = np.where(truth() > 0, 3 - truth(), 0).astype(np.uint8)  # the prediction has tumour=1, liver=2
    nib.save(nib.Nifti1Image(swapped, AFFINE), tmp_path / "pred.nii.gz")
    done = ssmtl.evaluate(tmp_path / "pred.nii.gz", label, classes="tumour=1,liver=2", surface=False)
    assert list(done.classes) == ["tumour", "liver"]
    assert done.mean["dice"] == 1


def test_segmentations_as_predictions_are_paired_by_the_scan_that_both_refer_to(tmp_path):
    for patient in (1, 2):
        tcia(tmp_path / "data", patient)
        images = sources(series=patient)
        write_seg(tmp_path / "out" / f"model {patient}.dcm", images, masks()[..., [1, 0]], ["tumour", "liver"])
    done = ssmtl.evaluate(tmp_path / "out", tmp_path / "data", surface=False)
    assert [scan.name for scan in done.scans] == [f"LUNG1-00{i}/08-23-2019/1.000000-CT" for i in (1, 2)]
    assert done.mean["dice"] == 1  # each file numbers them differently
    one = ssmtl.evaluate(tmp_path / "out" / "model 2.dcm", tmp_path / "data", surface=False)
    assert [scan.name for scan in one.scans] == ["LUNG1-002/08-23-2019/1.000000-CT"]
    write_seg(tmp_path / "out" / "again.dcm", sources(series=1), masks(), ["liver", "tumour"])
    with pytest.raises(DataError, match=r"model 1\.dcm: and .*again\.dcm are both for the label LUNG1-001"):
        ssmtl.evaluate(tmp_path / "out", tmp_path / "data", surface=False)
    with pytest.raises(DataError, match="SEG and RTSTRUCT by the scans that they refer to: give --label the data set"):
        ssmtl.evaluate(tmp_path / "out", tmp_path / "data/LUNG1-002/08-23-2019/300.000000-Segmentation")


def test_predictions_may_be_called_like_the_folder_of_a_patient(tmp_path):
    for patient in (1, 2):
        tcia(tmp_path / "data", patient)
        (tmp_path / "out").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(truth().astype(np.uint8), AFFINE), tmp_path / "out" / f"LUNG1-00{patient}.nii.gz")
    done = ssmtl.evaluate(tmp_path / "out", tmp_path / "data", classes="liver=1,tumour=2", surface=False)
    assert len(done.scans) == 2
    assert done.mean["dice"] == 1
    tcia(tmp_path / "data" / "LUNG1-001", 3)  # now two scans in that folder
    done = ssmtl.evaluate(tmp_path / "out", tmp_path / "data", classes="liver=1,tumour=2", surface=False)
    assert done.unpaired_predictions == ("LUNG1-001",)


def test_a_segmentation_of_uneven_slices_is_scored_at_their_true_positions(tmp_path):
    images = sources()
    for k, data in enumerate(images):
        step = np.array(list(map(float, images[0].ImagePositionPatient)))
        data.ImagePositionPatient = [f"{x:.6f}" for x in step + LPS_STEP * (k + (k > 4))]  # one is missing
    write_scan_series(tmp_path / "data" / "images" / "p1", images)
    write_seg(tmp_path / "data" / "labels" / "p1.dcm", images, masks(), ["liver", "tumour"])
    grid = READERS.header(tmp_path / "data" / "images" / "p1").affine
    nib.save(nib.Nifti1Image(truth().astype(np.uint8), grid), tmp_path / "p1.nii.gz")
    done = ssmtl.evaluate(tmp_path / "p1.nii.gz", tmp_path / "data", classes="liver=1,tumour=2", surface=False)
    assert done.mean["dice"] == 1
