"""Sequences in time as files have them: DICOM cine, films without positions, NIfTI with any unit, pictures."""

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from pydicom.sequence import Sequence

from helpers.cine import cine, write_4d
from helpers.dicom_files import AFFINE, enhanced, image, item, save, write_series
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import ReaderSpec, Scan

READERS = installed_readers(in_time=True)
FRAMES = np.round(cine(frames=4, slices=3)[0]).astype(np.int16)  # (columns, rows, slices, frames)


def write_cine_series(folder, times, frames=FRAMES, series=3, **extra):
    """Write a file for each slice and phase, in an order of names that is neither; `times` makes attributes of t."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for t in reversed(range(frames.shape[3])):
        for k in range(frames.shape[2]):
            number += 1
            data = image(frames[:, :, k, t], AFFINE, k, series, **times(t), **extra)
            data.Modality, data.InstanceNumber = "MR", number
            save(data, folder / f"IM{number:03d}")
    return folder


def same(volume, frames=FRAMES):
    assert volume.frames == frames.shape[3]
    assert_array_equal(volume.array, frames)


@pytest.mark.parametrize(
    ("times", "ms"),
    [
        (lambda t: {"TriggerTime": f"{35.5 * t:.1f}"}, 35.5),
        (lambda t: {"AcquisitionDate": "20200101", "AcquisitionTime": f"0959{50 + t}.5"}, 1000.0),
        (lambda t: {"FrameReferenceTime": str(2500 * t)}, 2500.0),
        (lambda t: {"TemporalPositionIdentifier": t + 1, "RepetitionTime": "2000"}, 2000.0),
        (lambda t: {"TemporalPositionIdentifier": t + 1}, 0.0),
    ],
)
def test_a_series_of_slices_and_phases_is_one_scan_with_the_ms_that_its_headers_say(tmp_path, times, ms):
    folder = write_cine_series(tmp_path / "p1", times)
    volume = READERS.read(folder)
    same(volume)
    assert volume.frame_ms == pytest.approx(ms)
    header = READERS.header(folder)
    assert (header.frames, header.shape, header.frame_ms) == (4, FRAMES.shape[:3], pytest.approx(ms))


def test_times_that_are_uneven_are_noted_with_their_range(tmp_path):
    folder = write_cine_series(tmp_path / "p1", lambda t: {"TriggerTime": str([0, 30, 60, 110][t])})
    volume = READERS.read(folder)
    assert volume.frame_ms == 30
    assert any("unevenly spaced in time: 30 to 50 ms by trigger time" in note for note in volume.notes)


def test_a_single_slice_with_phases_is_a_sequence_and_without_axis_time_a_film(tmp_path):
    one = FRAMES[:, :, :1]
    folder = write_cine_series(tmp_path / "p1", lambda t: {"TriggerTime": str(40 * t)}, one)
    same(READERS.read(folder), one)
    assert READERS.read(folder).files  # each frame is a file, so that pictures of labels can be matched by name
    with pytest.raises(DataError, match=r"all at one position: a film, not a volume.*--axis time"):
        installed_readers().read(folder)


def test_frames_of_an_enhanced_file_are_sorted_by_position_and_trigger_delay(tmp_path):
    frames = [
        (
            FRAMES[:, :, k, t],
            k,
            {"CardiacSynchronizationSequence": item(NominalCardiacTriggerDelayTime=25.0 * t)},
        )
        for k in (2, 0, 1)
        for t in (3, 1, 0, 2)
    ]
    file = enhanced(tmp_path / "cine.dcm", frames)
    volume = READERS.read(file)
    same(volume)
    assert volume.frame_ms == 25


def film(file, frames=FRAMES, **extra):
    """A multi-frame file without positions, as of ultrasound."""
    planes = frames[:, :, 0]
    data = image(planes[..., 0], AFFINE, 0, **extra)
    del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
    data.Modality, data.NumberOfFrames = "US", planes.shape[2]
    data.PixelData = b"".join(np.ascontiguousarray(planes[..., t].T).tobytes() for t in range(planes.shape[2]))
    data["PixelData"].VR = "OW"
    return save(data, file)


@pytest.mark.parametrize(
    ("extra", "ms"), [({"FrameTime": "33.3"}, 33.3), ({"FrameTimeVector": [0, 20, 20, 20]}, 20.0), ({}, 0.0)]
)
def test_a_film_without_positions_is_a_sequence_of_one_slice(tmp_path, extra, ms):
    tmp_path = tmp_path / "scans"
    tmp_path.mkdir()
    film(tmp_path / "film.dcm", **extra)
    (scan,) = list_scans(dataset_of(str(tmp_path)), tmp_path, in_time=True)
    volume = READERS.read(scan.path)
    same(volume, FRAMES[:, :, :1])
    assert volume.frame_ms == pytest.approx(ms)
    assert any("says nothing of where it lies" in note for note in volume.notes)
    (skipped,) = list_scans(dataset_of(str(tmp_path)), tmp_path)
    assert "a multi-frame image without positions" in skipped.unfit


def test_the_pixels_of_ultrasound_have_the_size_of_its_region(tmp_path):
    region = item(PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.05, PhysicalDeltaY=0.04)
    volume = READERS.read(film(tmp_path / "film.dcm", SequenceOfUltrasoundRegions=Sequence(region)))
    assert volume.spacing[:2] == pytest.approx((0.5, 0.4))


def test_volumes_that_differ_in_more_than_time_are_no_sequence(tmp_path):
    folder = write_cine_series(tmp_path / "p1", lambda t: {"EchoTime": str(5 * (t + 1))})
    with pytest.raises(DataError, match="volumes of different echo times, which are no sequence in time"):
        READERS.read(folder)


def test_of_a_folder_with_a_cine_and_a_volume_the_cine_is_the_scan(tmp_path):
    folder = write_cine_series(tmp_path / "all" / "p1", lambda t: {"TriggerTime": str(40 * t)})
    write_series(folder, series=9, name="CT{}")
    (scan,) = list_scans(dataset_of(str(tmp_path / "all")), tmp_path, in_time=True)
    same(READERS.read(scan.path))
    assert len(list_scans(dataset_of(str(tmp_path / "all")), tmp_path)) == 2


@pytest.mark.parametrize(
    ("step", "unit", "ms"),
    [(0.04, "sec", 40.0), (40, "msec", 40.0), (40000, "usec", 40.0), (40, "unknown", 0.0), (0, "sec", 0.0)],
)
def test_the_unit_of_time_of_a_nifti_file_counts_and_without_one_there_are_only_frames(tmp_path, step, unit, ms):
    file = write_4d(tmp_path / "a.nii.gz", FRAMES, step, unit)
    volume = READERS.read_scan(Scan(file, "a", "a"))
    same(volume)
    assert volume.frame_ms == pytest.approx(ms)
    assert any("does not say how many ms" in note for note in volume.notes) == (ms == 0)
    assert READERS.header(file).frame_ms == pytest.approx(ms)


def test_pictures_in_a_folder_are_frames_and_count_without_ms(tmp_path):
    for t in range(4):
        Image.fromarray(FRAMES[:, :, 0, t].T.astype(np.uint8)).save(tmp_path / f"frame{t}.png")
    volume = READERS.read(tmp_path)
    same(volume, FRAMES[:, :, :1].astype(np.uint8))
    assert volume.files == tuple(f"frame{t}.png" for t in range(4))
    assert (READERS.header(tmp_path).shape, READERS.header(tmp_path).frames) == ((*FRAMES.shape[:2], 1), 4)
    assert installed_readers().read(tmp_path).shape == (*FRAMES.shape[:2], 4)


def test_a_single_volume_is_refused_in_one_line_that_says_what_to_do(tmp_path):
    nib.save(nib.Nifti1Image(FRAMES[..., 0], np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="has one frame only, and --axis time needs several: a 4-D file") as refused:
        READERS.read(tmp_path / "a.nii.gz")
    assert "\n" not in str(refused.value)


def write_mgz(file):
    nib.save(nib.MGHImage(FRAMES.astype(np.float32), np.eye(4)), file)


def write_mha(file):
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(FRAMES.T, isVector=False), str(file))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.nii.gz", lambda file: write_4d(file, FRAMES)),
        ("a.hdr", lambda file: nib.save(nib.Nifti1Pair(FRAMES, np.eye(4)), file)),
        ("a.mgz", write_mgz),
        ("a.mha", write_mha),
        ("dicom", lambda folder: write_cine_series(folder, lambda t: {"TriggerTime": str(40 * t)})),
    ],
)
def test_all_volumes_read_at_once_are_those_read_one_by_one(tmp_path, name, write):
    write(tmp_path / name)
    reader = installed_readers().of(tmp_path / name)
    all_at_once = reader.read_all(tmp_path / name, 4)
    one_by_one = ReaderSpec.read_all(reader, tmp_path / name, 4)
    assert len(all_at_once) == 4
    for a, b in zip(all_at_once, one_by_one, strict=True):
        assert_array_equal(a.array, b.array)
        assert a.array.dtype == b.array.dtype
        assert (a.notes, a.spacing, a.replaced, a.frame_ms) == (b.notes, b.spacing, b.replaced, b.frame_ms)
        assert_array_equal(a.affine, b.affine)
