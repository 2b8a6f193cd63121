"""DICOM with several images at each position: they become volumes by what their headers say, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from helpers.dicom_files import AFFINE, VOXELS, enhanced, image, item, save
from ssmtl_formats import Dicom
from ssmtl_toolkit.errors import DataError

SLICES = VOXELS.shape[2]
Change = Callable[[Dataset, int, int], object]


def write(folder: Path, change: Change, volumes: int = 2, seed: int = 0) -> Path:
    """Write `volumes` images at each position, whose values say of which volume they are, with shuffled numbers."""
    folder.mkdir(parents=True)
    numbers = iter(np.random.default_rng(seed).permutation(volumes * SLICES))
    for k in range(SLICES):
        for v in range(volumes):
            data = image(VOXELS[..., k] % 1000 + 1000 * v, AFFINE, k, InstanceNumber=int(next(numbers)) + 1)
            change(data, v, k)
            save(data, folder / f"{k}-{v}.dcm")
    return folder


def volumes_in(path: Path, volumes: int = 2) -> list[set[int]]:
    """Of which volumes the slices of each volume are."""
    return [
        {int(x) for x in np.median(Dicom().read(path, i).array, axis=(0, 1)) // 1000 if x >= 0} for i in range(volumes)
    ]


def refused(path: Path, volume: int | None = 0) -> str:
    with pytest.raises(DataError) as error:
        Dicom().read(path, volume)
    assert "\n" not in str(error.value)
    return str(error.value)


def private(creator: str, block: int, tag: int, vr: str, values: list[Any]) -> Change:
    def change(data: Dataset, v: int, k: int) -> None:
        data.add_new(block, "LO", creator)
        data.add_new(tag, vr, values[v])

    return change


def set_to(**values: list[Any]) -> Change:
    """Give the images of volume v the value at v."""

    def change(data: Dataset, v: int, k: int) -> None:
        for name, its in values.items():
            setattr(data, name, its[v])

    return change


M, P = ["ORIGINAL", "PRIMARY", "M", "ND"], ["ORIGINAL", "PRIMARY", "P", "ND"]


@pytest.mark.parametrize(
    "change",
    [
        set_to(EchoTime=["5", "15"]),
        set_to(EchoNumbers=[1, 2]),
        set_to(DiffusionBValue=[0.0, 1000.0]),
        set_to(DiffusionGradientOrientation=[[1, 0, 0], [0, 1, 0]], DiffusionBValue=[1000.0, 1000.0]),
        set_to(ImageType=[M, P]),
        set_to(ImageType=[[*M[:2], "W"], [*M[:2], "F"]]),
        set_to(ImageType=[M, ["DERIVED", *M[1:]]]),
        set_to(InversionTime=["700", "2500"]),
        set_to(FlipAngle=["2", "15"]),
        set_to(FlipAngle=["14", "15"]),
        set_to(TemporalPositionIdentifier=[1, 2]),
        set_to(TemporalPositionIndex=[1, 2]),
        set_to(ConvolutionKernel=["B30f", "B70f"]),
        set_to(KVP=["80", "140"]),
        set_to(AcquisitionNumber=[1, 2]),
        set_to(AcquisitionDate=["20200101", "20200102"], AcquisitionTime=["235959.5", "000001"]),
        set_to(ContrastBolusAgent=["", "GD"]),
        set_to(SequenceName=["ep_b0", "ep_b1000#1"]),
        lambda data, v, k: setattr(data, "TriggerTime", str(100 * v + 3 * k)),
        lambda data, v, k: setattr(data, "AcquisitionTime", f"{100000 + 1000 * v + k}.25"),
        private("SIEMENS MR HEADER", 0x00190010, 0x0019100C, "IS", ["0", "1000"]),
        private("GEMS_PARM_01", 0x00430010, 0x00431039, "IS", [[0, 8, 0, 0], [1000001000, 8, 0, 0]]),
        private("Philips Imaging DD 001", 0x20010010, 0x20011003, "FL", [0.0, 800.0]),
    ],
)
def test_what_the_headers_say_tells_volumes_apart_whatever_their_instance_numbers(tmp_path, change):
    folder = write(tmp_path / "scan", change)
    assert "is 4-D with 2 volumes; give --volume i, 0 to 1" in refused(folder, None)
    assert [len(one) for one in volumes_in(folder)] == [1, 1]
    assert Dicom().read(folder, 0).notes == ()


def test_volumes_are_in_the_order_of_echo_time_b_value_and_time(tmp_path):
    echoes = write(tmp_path / "echoes", set_to(EchoTime=["30", "10", "20"]), 3)
    assert volumes_in(echoes, 3) == [{1}, {2}, {0}]
    diffusion = write(tmp_path / "diffusion", set_to(EchoTime=["80"] * 3, DiffusionBValue=[1000.0, 0.0, 500.0]), 3)
    assert volumes_in(diffusion, 3) == [{1}, {2}, {0}]
    times = write(tmp_path / "times", set_to(TemporalPositionIdentifier=[10, 9, 8]), 3)
    assert volumes_in(times, 3) == [{2}, {1}, {0}]


def test_what_has_no_echo_time_comes_after_what_has_one(tmp_path):
    assert volumes_in(write(tmp_path / "scan", set_to(EchoTime=["", "5"]))) == [{1}, {0}]


def test_directions_of_siemens_without_types_in_the_file_are_read(tmp_path):
    def change(data: Dataset, v: int, k: int) -> None:
        data.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        data.add_new(0x0019100C, "UN", b"1000")
        data.add_new(0x0019100E, "UN", np.eye(3)[v].astype("<f8").tobytes())

    assert [len(one) for one in volumes_in(write(tmp_path / "scan", change, 3), 3)] == [1, 1, 1]


def test_images_that_nothing_tells_apart_are_refused(tmp_path):
    folder = write(tmp_path / "scan", lambda data, v, k: None)
    assert "has 2 images at each position that nothing in their headers tells apart" in refused(folder)
    assert "has 2 images at each position that nothing" in refused(folder, None)


@pytest.mark.parametrize("by_position", [True, False])
def test_regular_instance_numbers_tell_volumes_apart_and_by_position_with_a_note(tmp_path, by_position):
    def change(data: Dataset, v: int, k: int) -> None:
        data.InstanceNumber = 3 * k + v if by_position else SLICES * v + k

    folder = write(tmp_path / "scan", change, 3)
    assert volumes_in(folder, 3) == [{0}, {1}, {2}]
    assert Dicom().read(folder, 0).notes == ("its volumes are told apart by instance numbers alone",) * by_position


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("ImageType", (M, P), "different kinds (M and P)"),
        ("ImageType", (M, [*M[:2], "JOHN DOE"]), "different kinds in"),
        ("FlipAngle", ("5", "30"), "flip angles (5 and 30)"),
        ("InversionTime", ("700", "2500"), "inversion times (700 and 2500)"),
        ("ConvolutionKernel", ("B30f", "B70f"), "convolution kernels in"),
        ("KVP", ("80", "140"), "tube voltages (80 and 140)"),
        ("DiffusionGradientOrientation", ([1, 0, 0], [0, 1, 0]), "gradient directions ((0, 1, 0) and (1, 0, 0))"),
    ],
)
def test_a_volume_in_which_some_slices_are_of_another_kind_is_refused(tmp_path, name, values, said):
    def change(data: Dataset, v: int, k: int) -> None:
        setattr(data, name, values[k in (3, 6)])

    assert f"mixes images of different {said.removeprefix('different ')}" in refused(write(tmp_path / "one", change, 1))

    def both(data: Dataset, v: int, k: int) -> None:
        setattr(data, name, values[v if k in (3, 6) else 0])

    assert "mixes images of different" in refused(write(tmp_path / "two", both))


def test_what_differs_from_slice_to_slice_in_a_good_series_is_no_reason_to_refuse_it(tmp_path):
    def change(data: Dataset, v: int, k: int) -> None:
        data.AcquisitionNumber, data.AcquisitionTime, data.TriggerTime = 1 + (k > 4), f"{120000 + k}", str(17 * k)
        data.WindowCenter, data.SAR, data.XRayTubeCurrent, data.Exposure = str(40 + k), 0.1 * k, str(100 + k), str(k)
        data.SliceLocation, data.RescaleSlope, data.ContentTime = str(3 * k), str(1 + k), f"{130000 + k}"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", *(["ADD"] if k < 4 else [])]
        data.FlipAngle, data.RepetitionTime, data.EchoTime = str(50 - k % 2), str(900 + k), f"{2.5 + 0.001 * k}"

    volume = Dicom().read(write(tmp_path / "scan", change, 1))
    assert volume.array.shape == VOXELS.shape
    assert volume.notes == ()


GROUPS: dict[str, Callable[[int], dict[str, Any]]] = {
    "b-value": lambda v: {"MRDiffusionSequence": item(DiffusionBValue=1000.0 * v)},
    "direction": lambda v: {
        "MRDiffusionSequence": item(
            DiffusionBValue=1000.0,
            DiffusionGradientDirectionSequence=item(DiffusionGradientOrientation=np.eye(3)[v].tolist()),
        )
    },
    "echo": lambda v: {"MREchoSequence": item(EffectiveEchoTime=10.0 + 20 * v)},
    "time": lambda v: {"FrameContentSequence": item(TemporalPositionIndex=v + 1)},
    "clock": lambda v: {"FrameContentSequence": item(FrameAcquisitionDateTime=f"2020010112000{v}.5")},
    "acquisition": lambda v: {"FrameContentSequence": item(FrameAcquisitionNumber=v + 1)},
    "indices": lambda v: {"FrameContentSequence": item(DimensionIndexValues=[1, v + 1])},
    "magnitude": lambda v: {"MRImageFrameTypeSequence": item(FrameType=(M, P)[v])},
    "component": lambda v: {"MRImageFrameTypeSequence": item(ComplexImageComponent=("MAGNITUDE", "PHASE")[v])},
    "ct": lambda v: {"CTImageFrameTypeSequence": item(FrameType=(M, ["DERIVED", *M[1:]])[v])},
    "flip": lambda v: {"MRTimingAndRelatedParametersSequence": item(FlipAngle=5.0 + 10 * v)},
    "repetition": lambda v: {"MRTimingAndRelatedParametersSequence": item(RepetitionTime=500.0 + 10 * v)},
    "inversion": lambda v: {"MRModifierSequence": item(InversionTimes=[700.0 + 900 * v])},
    "trigger": lambda v: {"CardiacSynchronizationSequence": item(NominalCardiacTriggerDelayTime=40.0 * v)},
    "energy": lambda v: {"CTXRayDetailsSequence": item(KVP=80.0 + 60 * v)},
}


@pytest.mark.parametrize("of", GROUPS)
def test_frames_of_an_enhanced_file_in_any_order_are_told_apart_by_their_functional_groups(tmp_path, of):
    frames = [(k, v) for k in range(SLICES) for v in range(2)]
    frames = [frames[i] for i in np.random.default_rng(3).permutation(len(frames))]
    planes = [(VOXELS[..., k] % 1000 + 1000 * v, k, GROUPS[of](v)) for k, v in frames]
    file = enhanced(tmp_path / "a.dcm", planes)
    assert [len(one) for one in volumes_in(file)] == [1, 1]
    if of not in ("magnitude", "component", "ct", "direction", "repetition"):
        assert volumes_in(file) == [{0}, {1}]


def test_an_enhanced_file_that_lost_some_frames_of_a_kind_is_refused(tmp_path):
    kinds = [M if k < 6 else P for k in range(SLICES)]
    planes = [(VOXELS[..., k], k, {"MRImageFrameTypeSequence": item(FrameType=kinds[k])}) for k in range(SLICES)]
    assert "mixes images of different kinds (M and P)" in refused(enhanced(tmp_path / "a.dcm", planes))


def test_frames_of_an_enhanced_file_that_nothing_tells_apart_are_refused(tmp_path):
    frames = [(k, v) for k in range(SLICES) for v in range(2)]
    frames = [frames[i] for i in np.random.default_rng(3).permutation(len(frames))]
    file = enhanced(tmp_path / "a.dcm", [(VOXELS[..., k] + v, k, {}) for k, v in frames])
    assert "nothing in their headers tells apart" in refused(file)


@pytest.mark.parametrize(
    ("kind", "todo"),
    [("MOSAIC", "cut out (their number is missing); export the original series"), ("VFRAME", "dcm2niix converts it")],
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_mosaic_is_called_one_and_what_to_do_is_said(tmp_path, kind, todo, count):
    folder = tmp_path / "scan"
    folder.mkdir()
    for t in range(count):
        save(image(VOXELS[..., t], AFFINE, 0, ImageType=[*M, kind]), folder / f"{t}.dcm")
    assert todo in refused(folder)
    assert "is a mosaic" in refused(folder / "0.dcm")


def test_values_that_hardly_differ_count_for_more_than_the_order_of_times(tmp_path):
    def change(data: Dataset, v: int, k: int) -> None:
        data.FlipAngle, data.AcquisitionTime = str(14 + v), f"{120000 + (v + k) % 2}"

    assert [len(one) for one in volumes_in(write(tmp_path / "scan", change))] == [1, 1]


def test_inversion_times_that_follow_the_contrast_agent_are_of_one_volume(tmp_path):
    def change(data: Dataset, v: int, k: int) -> None:
        data.InversionTime = str(280 + 40 * (k // 3))  # of each breath-hold of a late enhancement

    assert Dicom().read(write(tmp_path / "scan", change, 1)).array.shape == VOXELS.shape
