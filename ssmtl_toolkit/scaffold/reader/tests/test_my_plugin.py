"""What the reader should do; and the checks that every reader passes."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ssmtl_toolkit import DataError, pretrain
from ssmtl_toolkit.testing import Case, cases

from my_plugin import MyPlugin

AFFINE = np.array([[0, 0, 3, -10], [0.8, 0, 0, 5], [0, 0.9, 0, 7], [0, 0, 0, 1]])  # slices from left to right


def voxels(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(24, 20, 12)).astype(np.float32)


def write(file: Path, **arrays: Any) -> Path:
    np.savez(file, **arrays)
    return file


def write_example(folder: Path) -> Path:
    return write(folder / "scan.npz", array=voxels(), affine=AFFINE)


def test_voxels_and_geometry_come_as_they_were_saved(tmp_path: Path) -> None:
    read = MyPlugin().read(write_example(tmp_path))
    assert np.array_equal(read.array, voxels())
    assert np.array_equal(read.affine, AFFINE)
    assert read.spacing == pytest.approx((0.8, 0.9, 3.0))
    assert read.axis("acquisition") == "sagittal"


def test_voxels_that_are_not_finite_become_the_smallest_and_are_counted(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    array[1, 1] = [np.nan, np.inf, 3, 2]
    read = MyPlugin().read(write(tmp_path / "scan.npz", array=array, affine=AFFINE))
    assert read.array[1, 1].tolist() == [0, 0, 3, 2]
    assert read.replaced == 2


def test_one_volume_of_an_array_with_four_axes_is_read(tmp_path: Path) -> None:
    both = np.stack([voxels(seed=0), voxels(seed=1)], axis=3)
    file = write(tmp_path / "scan.npz", array=both, affine=AFFINE)
    assert np.array_equal(MyPlugin().read(file, volume=1).array, voxels(seed=1))
    with pytest.raises(DataError, match="--volume"):
        MyPlugin().read(file)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"array": voxels()}, "has no 'affine'"),
        ({"array": voxels()[0], "affine": AFFINE}, r"float32 \(20, 12\)"),
        ({"array": voxels()[:0], "affine": AFFINE}, r"float32 \(0, 20, 12\)"),
        ({"array": voxels().astype(str), "affine": AFFINE}, "save numbers"),
        ({"array": voxels(), "affine": AFFINE[:3]}, "save the 4x4 matrix"),
        ({"array": voxels(), "affine": np.zeros((4, 4))}, "save the 4x4 matrix"),
        ({"array": voxels() * np.nan, "affine": AFFINE}, "only NaN"),
        ({"array": np.array([{}]), "affine": AFFINE}, "is damaged"),  # a pickle
    ],
)
def test_what_is_not_a_scan_is_refused_in_one_line_that_names_the_file(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        MyPlugin().read(write(tmp_path / "scan.npz", **arrays))
    assert str(tmp_path / "scan.npz") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_header_that_claims_more_than_memory_holds_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "scan.npz"
    with zipfile.ZipFile(file, "w") as archive, archive.open("array.npy", "w") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (20000, 20000, 20000)}
        np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(file, "a") as archive, archive.open("affine.npy", "w") as stream:
        np.lib.format.write_array(stream, AFFINE)
    with pytest.raises(DataError, match="more than half of this machine's"):
        MyPlugin().read(file)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    file = write_example(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(DataError, match="cut short"):
        MyPlugin().read(file)


def test_a_folder_of_such_files_can_be_trained_on(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for i in range(2):
        write(tmp_path / "scans" / f"{i}.npz", array=voxels(seed=i), affine=AFFINE)
    run = pretrain(
        data=str(tmp_path / "scans"),
        backbone="unet:encoder=plain,width=8",
        tasks=["reconstruct_next:t=2"],
        size=32,
        steps=2,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert run.summary["slices"] == 24


@pytest.mark.parametrize("case", cases("my_plugin", example=write_example), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()
