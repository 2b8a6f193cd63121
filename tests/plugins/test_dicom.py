"""DICOM: series are put in order by positions; what cannot be read right is refused in one line that says why."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from helpers.dicom_files import AFFINE, PATIENT, VOXELS, as_rle, image, save, write_series
from helpers.small import SMALL, write_scan
from ssmtl_formats import Dicom
from ssmtl_toolkit.data.readers import digest_with
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of

SPACING = (0.7, 0.8, 2.5)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def refused(path: Path, volume: int | None = None) -> str:
    """What is said of `path`, which must be one line that begins with its name."""
    with pytest.raises(DataError) as error:
        installed_readers().read(path, volume)
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(str(path))
    return said


def same(volume: Volume, voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, within: float = 1e-4) -> None:
    assert volume.array.shape == voxels.shape
    assert np.array_equal(volume.array, voxels)
    assert np.abs(volume.affine - affine).max() < within
    assert volume.spacing == pytest.approx(tuple(np.linalg.norm(affine[:3, :3], axis=0)), abs=within)
    assert volume.header is None


def names_of(root: Path) -> list[str]:
    return [scan.name for scan in list_scans(dataset_of(str(root)), root / "unused") if not scan.unfit]


# ---- DICOM ----


def test_a_series_is_ordered_by_positions_and_not_by_names_numbers_or_thickness(tmp_path):
    volume = Dicom().read(write_series(tmp_path / "scan"))
    same(volume)
    assert volume.slice_axis == 2
    assert volume.notes == ()
    assert volume.array.dtype == np.int16


def test_a_series_acquired_the_other_way_round_lies_in_the_same_place(tmp_path):
    backwards = AFFINE @ np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 8], [0, 0, 0, 1]])
    same(Dicom().read(write_series(tmp_path / "scan", VOXELS[..., ::-1], backwards)))


def test_a_header_that_claims_more_than_memory_holds_is_refused_at_once(tmp_path):
    folder = write_series(tmp_path / "scan", Rows=65535, Columns=65535)
    started = time.perf_counter()
    assert "GiB of memory, more than half" in refused(folder)
    assert time.perf_counter() - started < 2


def test_any_file_of_a_series_stands_for_the_whole(tmp_path):
    folder = write_series(tmp_path / "scan", name="{}.dcm")
    same(Dicom().read(folder / "4.dcm"))
    assert sorted(Dicom().files(folder / "4.dcm")) == sorted(folder.iterdir())


def test_gdcm_reads_the_same_grid(tmp_path):
    """An independent reading of what we wrote: SimpleITK, given the files in the order of positions."""
    folder = write_series(tmp_path / "scan")
    series = SimpleITK.ImageSeriesReader()
    series.SetFileNames([str(folder / f"IM{9 - k}") for k in range(9)])
    read = series.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(read).transpose(2, 1, 0), Dicom().read(folder).array)
    matrix = np.array(read.GetDirection()).reshape(3, 3) @ np.diag(read.GetSpacing())
    assert np.abs(LPS[:3, :3] @ matrix - Dicom().read(folder).affine[:3, :3]).max() < 1e-4


def _jpeg2000(data: Dataset, k: int) -> Dataset:
    import io

    stream = io.BytesIO()
    plane = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
    Image.fromarray(plane).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    return _encapsulated(data, pydicom.encaps.encapsulate([stream.getvalue()]), JPEG2000Lossless)


def _encapsulated(data: Dataset, pixels: bytes, syntax: str) -> Dataset:
    data.PixelData, data.file_meta.TransferSyntaxUID = pixels, syntax
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return data


def _big_endian(data: Dataset, k: int) -> Dataset:
    data.PixelData = np.frombuffer(data.PixelData, "<u2").byteswap().tobytes()
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    return data


def _as(syntax: str) -> Callable[[Dataset, int], Dataset]:
    def change(data: Dataset, k: int) -> Dataset:
        data.file_meta.TransferSyntaxUID = syntax
        return data

    return change


@pytest.mark.parametrize(
    "change",
    [_jpeg2000, _big_endian, as_rle, _as(ImplicitVRLittleEndian), _as(DeflatedExplicitVRLittleEndian)],
    ids=["jpeg2000", "big-endian", "rle", "implicit", "deflated"],
)
def test_every_transfer_syntax_gives_the_same_voxels(tmp_path, change):
    voxels = (VOXELS.astype(int) + 2000).astype(np.uint16)
    same(Dicom().read(write_series(tmp_path / "scan", voxels, change=change)), voxels)


def _jpeg_lossless(folder: Path) -> Callable[[Dataset, int], Dataset]:
    """Pack by the encoder in SimpleITK."""
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.SetCompressor("JPEG")
    writer.UseCompressionOn()

    def change(data: Dataset, k: int) -> Dataset:
        writer.SetFileName(str(folder / f"{k}.dcm"))
        writer.Execute(SimpleITK.GetImageFromArray(data.pixel_array))
        packed = pydicom.dcmread(folder / f"{k}.dcm")
        assert packed.file_meta.TransferSyntaxUID == JPEGLosslessSV1
        return _encapsulated(data, packed.PixelData, JPEGLosslessSV1)

    return change


# (np.arange(30).reshape(5, 6) * 137 % 4096).astype(np.uint16), packed by CharLS in the package pyjpegls
JPEG_LS = bytes.fromhex(
    "ffd8fff7000b0c0005000601011100ffda000801010000000082885123c2891e000000d8148902388c0a4000000d845110431084809a8822"
    "01fcfc2399a1f4f87b3d08c0ffd9"
)


def _jpeg_ls(data: Dataset, k: int) -> Dataset:
    return _encapsulated(data, pydicom.encaps.encapsulate([JPEG_LS]), JPEGLSLossless)


def test_jpeg_lossless_gives_the_same_voxels(tmp_path):
    voxels = (VOXELS.astype(int) + 2000).astype(np.uint16)
    packed = write_series(tmp_path / "scan", voxels, change=_jpeg_lossless(tmp_path / "by_itk"))
    same(Dicom().read(packed), voxels)


def test_jpeg_ls_gives_the_same_voxels(tmp_path):
    plane = (np.arange(30).reshape(5, 6) * 137 % 4096).astype(np.uint16)
    voxels = np.repeat(plane.T[..., None], 3, axis=2)
    bits = {"BitsStored": 12, "HighBit": 11}
    same(Dicom().read(write_series(tmp_path / "scan", voxels, change=_jpeg_ls, **bits)), voxels)


def test_a_file_without_preamble_is_known_by_its_beginning(tmp_path):
    folder = write_series(tmp_path / "scan", change=_as(ImplicitVRLittleEndian))
    for file in list(folder.iterdir()):
        data = pydicom.dcmread(file)
        del data.file_meta.TransferSyntaxUID
        raw = Dataset(data)
        raw.save_as(file, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert file.read_bytes()[128:132] != b"DICM"
    assert names_of(tmp_path) == ["scan"]
    same(Dicom().read(folder))


def test_unused_bits_and_signs_are_as_the_header_says(tmp_path):
    stored = (np.arange(20 * 24 * 2).reshape(20, 24, 2) % 4096 - 2048).astype(np.int16)
    dirty = ((stored.astype(int) & 0xFFF) | 0xA000).astype(np.int16)  # an overlay in the upper bits, as of old
    bits = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    same(Dicom().read(write_series(tmp_path / "scan", dirty, **bits)), stored)


def test_each_slice_is_scaled_by_its_own_slope(tmp_path):
    def change(data: Dataset, k: int) -> Dataset:
        data.RescaleSlope, data.RescaleIntercept = f"{0.25 * (k + 1)}", f"{-10 * k}"
        return data

    volume = Dicom().read(write_series(tmp_path / "scan", change=change))
    assert volume.array.dtype == np.float32
    expected = VOXELS * (0.25 * (np.arange(9) + 1)) - 10.0 * np.arange(9)
    assert np.array_equal(volume.array, expected.astype(np.float32))


def test_hounsfield_units_stay_whole_numbers(tmp_path):
    voxels = (VOXELS.astype(int) + 2000).astype(np.uint16)
    volume = Dicom().read(write_series(tmp_path / "scan", voxels, RescaleSlope="1", RescaleIntercept="-1024"))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, voxels.astype(int) - 1024)


def test_whole_numbers_beyond_32_bits_with_a_sign_do_not_wrap(tmp_path):
    voxels = VOXELS.astype(np.int64) + 3_000_000_000
    volume = Dicom().read(write_series(tmp_path / "unsigned", voxels.astype(np.uint32)))
    assert np.array_equal(volume.array, voxels.astype(np.float32))
    assert "rounded to float32" in volume.notes[0]
    top = np.full((4, 4, 3), 2**31 - 10, np.int32)
    volume = Dicom().read(write_series(tmp_path / "shifted", top, RescaleSlope="1", RescaleIntercept="1000"))
    assert np.array_equal(volume.array, np.full(top.shape, np.float32(2**31 + 990)))


def test_one_slice_of_a_wider_type_widens_the_whole(tmp_path):
    def change(data: Dataset, k: int) -> Dataset:
        if k == 4:
            plane = np.frombuffer(data.PixelData, "<i2").astype("<u4")  # below zero: beyond int32
            data.PixelData, data.PixelRepresentation = plane.tobytes(), 0
            data.BitsAllocated = data.BitsStored = 32
            data.HighBit = 31
        return data

    expected = VOXELS.astype(np.int64)
    expected[..., 4] %= 2**32
    volume = Dicom().read(write_series(tmp_path / "scan", change=change))
    assert np.array_equal(volume.array, expected.astype(np.float32))


def test_values_of_monochrome1_are_kept_and_noted(tmp_path):
    volume = Dicom().read(write_series(tmp_path / "scan", PhotometricInterpretation="MONOCHROME1"))
    same(volume)
    assert "MONOCHROME1" in volume.notes[0]


def test_padding_is_noted(tmp_path):
    voxels = VOXELS.copy()
    voxels[0, 0, :] = -2000
    volume = Dicom().read(write_series(tmp_path / "scan", voxels, PixelPaddingValue=-2000))
    same(volume, voxels)
    assert "padding value" in volume.notes[0]


def test_padding_below_zero_is_noted_where_types_are_implicit_too(tmp_path):
    voxels = VOXELS.copy()
    voxels[0, 0, :] = -2000

    def change(data: Dataset, k: int) -> Dataset:
        data.PixelPaddingValue = -2000
        return _as(ImplicitVRLittleEndian)(data, k)

    volume = Dicom().read(write_series(tmp_path / "scan", voxels, change=change))
    same(volume, voxels)
    assert "padding value" in volume.notes[0]


def _tilted() -> np.ndarray:
    """The gantry is tilted by 20 degrees: each slice lies further back than the one before it."""
    affine = np.diag([-0.7, -0.8, 2.5, 1.0])
    affine[1, 2] = 2.5 * np.tan(np.radians(20))
    return affine


def test_a_tilted_gantry_makes_a_sheared_affine_from_the_real_positions(tmp_path):
    volume = Dicom().read(write_series(tmp_path / "scan", affine=_tilted()))
    same(volume, affine=_tilted())
    assert "sheared: two meet at 70.0 degrees" in volume.notes[0]


def _without(*slices: int) -> Callable[[Dataset, int], Dataset | None]:
    return lambda data, k: None if k in slices else data


def test_a_missing_slice_is_refused_and_told_where(tmp_path):
    said = refused(write_series(tmp_path / "scan", affine=np.diag([-1.0, -1.0, 2.5, 1]), change=_without(4)))
    assert "is missing slices: from (0, 0, 7.5) to (0, 0, 12.5) mm it is 5 mm, elsewhere 2.5 mm" in said
    said = refused(write_series(tmp_path / "more", change=_without(2, 5, 6)))
    assert "and 1 more such gaps" in said


@pytest.mark.parametrize("lost", [1, 7])
def test_a_missing_slice_next_to_the_end_is_found(tmp_path, lost):
    assert "is missing slices" in refused(write_series(tmp_path / "scan", change=_without(lost)))


def _moved(by: float) -> Callable[[Dataset, int], Dataset]:
    def change(data: Dataset, k: int) -> Dataset:
        x, y, z = map(float, data.ImagePositionPatient)
        data.ImagePositionPatient = [x, y, f"{z + by * (k == 4):.6f}"]
        return data

    return change


def test_uneven_spacing_is_noted_when_small_and_refused_when_not(tmp_path):
    straight = np.diag([-1.0, -1.0, 2.5, 1.0])
    volume = Dicom().read(write_series(tmp_path / "small", affine=straight, change=_moved(0.02)))
    same(volume, affine=straight, within=0.01)
    assert "up to 0.018 mm off an even spacing of 2.5 mm" in volume.notes[0]
    said = refused(write_series(tmp_path / "large", affine=straight, change=_moved(0.5)))
    assert "is unevenly spaced: its slices are 2.5 mm (6 times), 3 mm (1 times), 2 mm (1 times) apart" in said
    assert Dicom().read(write_series(tmp_path / "none", affine=straight, change=_moved(0.001))).notes == ()


def _at(positions: list[float]) -> Callable[[Dataset, int], Dataset]:
    def change(data: Dataset, k: int) -> Dataset:
        x, y, _ = map(float, data.ImagePositionPatient)
        data.ImagePositionPatient = [x, y, f"{positions[k]:.6f}"]
        return data

    return change


def test_positions_rounded_to_a_tenth_are_fitted(tmp_path):
    """Report of a 1.25 mm series: 0, 1.2, 2.5, 3.8 ... lies up to 0.1 mm off the line through its ends."""
    exact = 0.65 + 1.25 * np.arange(9)
    straight = np.diag([-1.0, -1.0, 1.25, 1.0])
    straight[2, 3] = exact[0]
    volume = Dicom().read(write_series(tmp_path / "s", affine=straight, change=_at(np.round(exact, 1).tolist())))
    assert abs(volume.affine[:3, 2] - [0, 0, 1.25]).max() < 0.01
    assert abs(volume.affine[2, 3] - exact[0]) < 0.05
    assert ["off an even spacing of 1.25 mm" in note for note in volume.notes] == [True]


THICK = [0, 4.2, 8.4, 12.6, 20, 27.4, 34.8, 42.2, 49.6]  # GE, thin through the skull base: no slice is missing


@pytest.mark.parametrize("positions", [THICK, [0, 2, 4, 6, 8, 12, 16, 20, 24]])
def test_a_slice_distance_that_changes_is_refused_with_the_distances(tmp_path, positions):
    straight = np.diag([-1.0, -1.0, 2.0, 1.0])
    said = refused(write_series(tmp_path / "s", affine=straight, change=_at(positions)))
    thin, thick = positions[1], round(positions[-1] - positions[-2], 1)
    assert f"{thin:g} mm (" in said
    assert f"{thick:g} mm (" in said
    assert "missing" not in said


def test_unevenly_spaced_slices_are_read_with_their_true_positions_where_these_are_asked_for(tmp_path):
    folder = write_series(tmp_path / "s", affine=np.diag([-1.0, -1.0, 2.0, 1.0]), change=_at(THICK))
    volume = installed_readers().read(folder, uneven=True)
    assert np.allclose(volume.positions, THICK)
    assert np.array_equal(volume.array, VOXELS)
    assert np.allclose(volume.affine @ [0, 0, 8, 1], [0, 0, 49.6, 1])  # the last slice is where it is


def test_slices_shifted_aside_are_refused(tmp_path):
    def change(data: Dataset, k: int) -> Dataset:
        x, y, z = map(float, data.ImagePositionPatient)
        data.ImagePositionPatient = [x + 3 * (k == 4), y, z]
        return data

    said = refused(write_series(tmp_path / "s", affine=np.diag([-1.0, -1.0, 2.5, 1.0]), change=change))
    assert "has slices up to 3 mm aside of the others" in said


def test_copies_of_an_image_count_once(tmp_path):
    folder = write_series(tmp_path / "scan")
    (folder / "IM3 copy.dcm").write_bytes((folder / "IM3").read_bytes())
    volume = Dicom().read(folder)
    same(volume)
    assert volume.notes == ("1 copies of its images are skipped",)


@pytest.mark.parametrize("by_position", [True, False])
def test_several_echoes_at_each_position_are_volumes_to_choose_from(tmp_path, by_position):
    folder = tmp_path / "scan"
    for echo in (1, 0):
        numbers = {k: (2 * k + echo if by_position else 9 * echo + k) + 1 for k in range(9)}

        def change(data: Dataset, k: int, echo: int = echo, numbers: dict[int, int] = numbers) -> Dataset:
            data.EchoTime, data.InstanceNumber = f"{5 + 10 * echo}", numbers[k]
            return data

        write_series(folder, VOXELS + 1000 * echo, change=change, name=f"e{echo}-{{}}.dcm")
    assert "is 4-D with 2 volumes; give --volume i, 0 to 1" in refused(folder)
    same(Dicom().read(folder, 0))
    same(Dicom().read(folder, 1), VOXELS + 1000)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("EchoTime", "echo times (10 and 20)"),
        ("DiffusionBValue", "b-values (10 and 20)"),
        ("TemporalPositionIdentifier", "temporal positions (10 and 20)"),
    ],
)
def test_a_volume_that_would_mix_images_of_several_is_refused(tmp_path, name, said):
    for i in range(2):

        def change(data: Dataset, k: int, i: int = i) -> Dataset:
            setattr(data, name, 10 * (i + 1 + (k == 2)))  # at one position the first one is lost, and there is a third
            return data

        write_series(tmp_path / "scan", VOXELS + 1000 * i, change=change, name=f"{i}-{{}}.dcm")
    assert f"mixes images of different {said} in one volume" in refused(tmp_path / "scan", 0)


def test_one_name_on_all_images_makes_no_copies_of_them(tmp_path):
    volume = Dicom().read(write_series(tmp_path / "scan", SOPInstanceUID="1.2.3"))
    same(volume)
    assert volume.notes == ()


def test_a_position_with_more_images_than_others_is_refused(tmp_path):
    folder = write_series(tmp_path / "scan")
    save(image(VOXELS[..., 0], AFFINE, 2), folder / "again")
    assert "has 1 to 2 images at one position" in refused(folder)
    film = tmp_path / "film"
    film.mkdir()
    for i in range(4):
        save(image(VOXELS[..., i], AFFINE, 0), film / f"{i}")
    assert "has 4 images, all at one position: a film" in refused(film)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "different orientations in one series"),
        ({"PixelSpacing": [2, 2]}, "different pixel spacings in one series"),
        ({"Columns": 10, "Rows": 48}, "different sizes (24 x 20 and 48 x 10 pixels) in one series"),
        ({"PixelData": b"\0" * 100}, "IM5: is cut short: it has 100 bytes of pixels, 960 are needed"),
        ({"PixelData": None}, "IM5: has no pixels"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "IM5: has colours"),
        ({"ImagePositionPatient": None}, "an image without a position"),
        ({"ImagePositionPatient": [0, 0]}, "IM5: has a ImagePositionPatient of 2 numbers, 3 finite ones are needed"),
        ({"PixelSpacing": None}, "IM5: has no PixelSpacing"),
        ({"RescaleSlope": "0"}, "IM5: has a rescale slope of 0"),
        ({"NumberOfFrames": 7}, "a multi-frame image without positions"),
    ],
)
def test_one_slice_that_does_not_fit_is_refused(tmp_path, change, said):
    def one(data: Dataset, k: int) -> Dataset:
        for name, value in change.items() if k == 4 else ():
            delattr(data, name) if value is None else setattr(data, name, value)
        return data

    folder = write_series(tmp_path / "scan", change=one)
    with pytest.raises(DataError) as error:
        installed_readers().read(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_packed_pixels_are_refused(tmp_path):
    voxels = (VOXELS.astype(int) + 2000).astype(np.uint16)

    def cut(data: Dataset, k: int) -> Dataset:
        data = _jpeg2000(data, k)
        if k == 4:
            (frame,) = pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)
            data.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 2]])
        return data

    with pytest.raises(DataError, match="IM5: has pixels that cannot be decoded"):
        Dicom().read(write_series(tmp_path / "scan", voxels, change=cut))


def _deflated_bomb(file: Path, size: int) -> Path:
    """A DICOM file that continues with `size` zeros after its last element, packed to a thousandth of them."""
    save(_as(DeflatedExplicitVRLittleEndian)(image(VOXELS[..., 0], AFFINE, 0), 0), file)
    raw = file.read_bytes()
    start = 144 + pydicom.dcmread(file).file_meta.FileMetaInformationGroupLength
    pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    parts = [raw[:start], pack.compress(zlib.decompress(raw[start:], -zlib.MAX_WBITS))]
    parts += [pack.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    file.write_bytes(b"".join([*parts, pack.flush()]))
    return file


@pytest.mark.slow
def test_a_small_file_that_inflates_without_end_is_refused_before_memory_is_taken(tmp_path):
    folder = write_series(tmp_path / "scan")
    assert _deflated_bomb(folder / "bomb", 500 << 20).stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        assert "bomb: is deflated and holds over 128 MiB; export it without compression" in refused(folder)
        assert names_of(tmp_path) == ["scan"]
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


# ---- folders of DICOM ----


def _mixed(folder: Path) -> Path:
    """A CT and an MR series, a scout, a report and an index in one folder."""
    write_series(folder, name="a{}", series=3)
    write_series(folder, VOXELS + 7, name="b{}", series=12)
    save(image(VOXELS[..., 0], AFFINE, 0, series=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), folder / "scout")
    report = image(VOXELS[..., 0], AFFINE, 0, series=99, Modality="SR", Rows=None, Columns=None, PixelData=None)
    save(report, folder / "report.dcm")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "readme.txt").write_text("hello")
    return folder


def test_each_series_of_a_folder_is_a_scan_and_what_is_no_scan_is_none(tmp_path):
    scans = list_scans(dataset_of(str(_mixed(tmp_path / "all" / "p1").parent)), tmp_path)
    assert [(scan.name, scan.patient) for scan in scans] == [("p1/series-3", "p1"), ("p1/series-12", "p1")]
    same(installed_readers().read(scans[0].path))
    same(installed_readers().read(scans[1].path), VOXELS + 7)
    assert "holds 2 series (series-3 with 9 images, series-12 with 9 images); give a file" in refused(
        tmp_path / "all" / "p1"
    )
    assert "is a scout (localizer), not a slice" in refused(tmp_path / "all" / "p1" / "scout")


def test_a_folder_without_any_slices_is_listed_as_left_out(tmp_path):
    folder = tmp_path / "all" / "scout"
    folder.mkdir(parents=True)
    save(image(VOXELS[..., 0], AFFINE, 0, series=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), folder / "1")
    write_scan(tmp_path / "all" / "p1.nii.gz")
    scans = list_scans(dataset_of(str(tmp_path / "all")), tmp_path)
    assert [(scan.name, bool(scan.unfit)) for scan in scans] == [("p1", False), ("scout", True)]
    assert "holds no series of slices: series-1 is a scout (localizer)" in scans[1].unfit


def test_series_without_or_with_the_same_number_are_told_apart(tmp_path):
    for i, number in enumerate([None, None, 2, 2]):
        uid = {"SeriesInstanceUID": f"1.2.{i}", "SeriesNumber": number} if number else {"SeriesInstanceUID": f"1.2.{i}"}
        write_series(tmp_path / "p1", VOXELS + i, name=f"{i}-{{}}.dcm", **uid)
        for file in (tmp_path / "p1").glob(f"{i}-*") if number is None else ():
            data = pydicom.dcmread(file)
            del data.SeriesNumber
            save(data, file)
    assert names_of(tmp_path) == ["p1/series-2", "p1/series-2-2", "p1/series-none", "p1/series-none-2"]


def test_a_localizer_without_its_name_is_known_by_its_planes(tmp_path):
    folder = write_series(tmp_path / "p1")
    for i, plane in enumerate([[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]]):
        save(image(VOXELS[..., 0], AFFINE, 0, series=1, ImageOrientationPatient=plane), folder / f"plane{i}")
    assert names_of(tmp_path) == ["p1"]
    volume = Dicom().read(folder)
    same(volume)
    assert volume.notes == ("beside the slices it holds a localizer, with planes across each other, skipped",)


def test_micrometres_between_slices_are_no_copies(tmp_path):
    affine = AFFINE @ np.diag([0.005, 0.005, 0.002, 1])
    volume = Dicom().read(write_series(tmp_path / "scan", affine=affine))
    assert np.array_equal(volume.array, VOXELS)
    assert volume.spacing == pytest.approx((0.0035, 0.004, 0.005), abs=1e-5)


def test_a_damaged_file_stops_rather_than_thins_out_a_series(tmp_path):
    folder = write_series(tmp_path / "scan", name="{}.dcm")
    (folder / "1.dcm").write_bytes(b"\0" * 300)
    assert names_of(tmp_path) == ["scan"]
    with pytest.raises(DataError, match=r"1\.dcm: is not a DICOM file, or has lost its header"):
        installed_readers().read(folder)


def test_folders_of_dicom_stand_beside_other_scans_and_may_hold_some(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "a" / "inner", VOXELS + 1)
    write_scan(tmp_path / "a" / "also.nii.gz")
    write_scan(tmp_path / "b.nii.gz")
    assert names_of(tmp_path) == ["a", "a/also", "a/inner", "b"]
    assert names_of(tmp_path / "a") == ["a", "also", "inner"]


def test_a_changed_or_added_slice_is_noticed(tmp_path):
    from ssmtl_toolkit.data.files import DigestMemo

    folder = write_series(tmp_path / "scan")
    digests = {digest_with(Dicom(), folder, DigestMemo(tmp_path / "memo"))}
    save(image(VOXELS[..., 0] + 1, AFFINE, 0), folder / "IM9")
    digests.add(digest_with(Dicom(), folder, DigestMemo(tmp_path / "memo")))
    save(image(VOXELS[..., 0], AFFINE, 9), folder / "IM10")
    digests.add(digest_with(Dicom(), folder, DigestMemo(tmp_path / "memo")))
    assert len(digests) == 3
    assert Dicom().read(folder).array.shape[2] == 10


def test_frames_of_an_enhanced_file_are_placed_one_by_one(tmp_path):
    def item(**values: Any) -> Sequence:
        data = Dataset()
        for name, value in values.items():
            setattr(data, name, value)
        return Sequence([data])

    order = [3, 0, 4, 1, 2]
    slices = [image(VOXELS[..., k], AFFINE, k) for k in order]
    data = image(VOXELS[..., 0], AFFINE, 0, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    data.NumberOfFrames = 5
    data.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=slices[0].ImageOrientationPatient),
        PixelMeasuresSequence=item(PixelSpacing=slices[0].PixelSpacing),
    )
    data.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PlanePositionSequence=item(ImagePositionPatient=one.ImagePositionPatient),
            PixelValueTransformationSequence=item(RescaleSlope="2", RescaleIntercept=str(k)),
        )[0]
        for one, k in zip(slices, order, strict=True)
    )
    data.PixelData = b"".join(one.PixelData for one in slices)
    file = save(data, tmp_path / "enhanced.dcm")
    expected = VOXELS[..., :5] * np.float32(2) + np.arange(5, dtype=np.float32)
    same(Dicom().read(file), expected)
    same(Dicom().read(tmp_path), expected)


def test_files_of_many_frames_are_decoded_once_whatever_the_order_of_their_slices(tmp_path, monkeypatch):
    from ssmtl_formats import pixels

    for i in range(2):  # one has the even slices, the other the odd ones
        ks = range(i, 8, 2)
        data = image(VOXELS[..., 0], AFFINE, 0, NumberOfFrames=4)
        data.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in ks])
        for group, k in zip(data.PerFrameFunctionalGroupsSequence, ks, strict=True):
            place = Dataset()
            place.ImagePositionPatient = image(VOXELS[..., k], AFFINE, k).ImagePositionPatient
            group.PlanePositionSequence = Sequence([place])
        data.PixelData = b"".join(np.ascontiguousarray(VOXELS[..., k].T).tobytes() for k in ks)
        save(data, tmp_path / f"{i}.dcm")
    decoded = []
    decode = pixels._decode
    monkeypatch.setattr(pixels, "_decode", lambda file: decoded.append(file.name) or decode(file))
    same(Dicom().read(tmp_path), VOXELS[..., :8])
    assert sorted(decoded) == ["0.dcm", "1.dcm"]


@pytest.mark.parametrize(
    "change",
    [("CT", "DOEJOHN19700101"), ("1.2.840.10008.1.2.1", "DOE^JOHN 19700101")],
    ids=["modality", "transfer-syntax"],
)
def test_a_name_in_a_field_for_codes_is_not_printed(tmp_path, change):
    there, name = change
    folder = tmp_path / "scan"
    if there == "CT":
        folder.mkdir()
        report = image(VOXELS[..., 0], AFFINE, 0, Modality=name, Rows=None, Columns=None, PixelData=None)
        save(report, folder / "report")
    else:
        write_series(folder)
        file = folder / "IM9"
        file.write_bytes(file.read_bytes().replace(there.ljust(20, "\0").encode(), name.ljust(20, "\0").encode(), 1))
    with pytest.raises(DataError) as error:
        installed_readers().read(folder)
    assert re.search(r"not a scan \(unknown kind\)|as an unknown transfer syntax", str(error.value))
    assert not [word for word in ("DOE", "JOHN", "1970") if word in str(error.value)]


def test_nothing_that_is_printed_or_written_names_the_patient(tmp_path, ssmtl):
    _mixed(tmp_path / "data" / "p1")
    write_series(tmp_path / "data" / "gap", change=_without(3))
    write_series(tmp_path / "data" / "odd", change=lambda data, k: setattr(data, "RescaleSlope", "0") or data)
    done = ssmtl(
        *("run", "--data", "data", "--size", 16, "--steps", 2, "--backbone", SMALL, "--skip-bad"),
        *("--task", "reconstruct_next:t=1", "--out", "run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert "is missing slices" in done.stderr + done.stdout
    text = done.stdout + done.stderr
    text += "".join(f.read_text(errors="ignore") for f in (tmp_path / "run").rglob("*") if f.is_file())
    assert not [word for word in ("Mustermann", "Erika", "4711") if word in text]
    assert PATIENT.encode() in (tmp_path / "data" / "gap" / "IM1").read_bytes()


def _said_without(module: str, folder: Path) -> str:
    """What the reader says in a process where a module cannot be imported."""
    code = f"import sys; sys.modules[{module!r}] = None\nfrom pathlib import Path\nfrom ssmtl_formats import Dicom\n"
    code += "reader, path = Dicom(), Path(sys.argv[1])\nassert reader.parts(path) == {'': path}\n"
    code += "assert len(reader.files(path)) == 9\ntry: reader.read(path)\nexcept Exception as error: print(error)"
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_without_the_extra_one_line_says_how_to_get_it(tmp_path):
    folder = write_series(tmp_path / "scan")
    install = "pip install 'ssmtl-toolkit[formats]'"
    assert _said_without("pydicom", folder) == f"{folder}: is DICOM, for which pydicom is needed: {install}\n"
    assert _said_without("SimpleITK", folder) == ""
    packed = write_series(tmp_path / "packed", change=_jpeg_ls)
    said = "is compressed as JPEG-LS Lossless Image Compression, for which SimpleITK is needed"
    assert _said_without("SimpleITK", packed) == f"{packed / 'IM9'}: {said}: {install}\n"


@pytest.mark.slow
def test_five_hundred_headers_are_read_in_a_few_seconds(tmp_path):
    write_series(tmp_path / "scan", np.zeros((4, 4, 500), np.int16) + np.arange(500, dtype=np.int16))
    started = time.perf_counter()
    assert Dicom().parts(tmp_path / "scan") == {"": tmp_path / "scan"}
    assert time.perf_counter() - started < 5
    started = time.perf_counter()
    Dicom().files(tmp_path / "scan")
    assert time.perf_counter() - started < 0.5  # remembered


@pytest.mark.parametrize("name", ["IM{}", "1.2.840.{}", "IM{}.dcm"])
def test_a_slice_that_was_lost_in_a_copy_is_not_left_out_silently(tmp_path, name):
    folder = write_series(tmp_path / "series", name=name)
    (folder / name.format(9)).write_bytes(b"")  # the first slice: no gap would tell
    assert f"{name.format(9)}: is empty: copy it again" in refused(folder)


def test_empty_files_that_are_no_slices_change_nothing(tmp_path):
    folder = write_series(tmp_path / "series")
    for name in (".done", "notes.txt", "DICOMDIR"):
        (folder / name).touch()
    assert installed_readers().read(folder).array.shape == VOXELS.shape
