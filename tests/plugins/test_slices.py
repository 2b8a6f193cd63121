"""Folders of PNG slices: what their names say, masks beside them, and values of palettes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssmtl_formats import Slices
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of

VOXELS = np.random.default_rng(0).integers(2, 250, (10, 12, 8)).astype(np.uint8)


def write(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        Image.fromarray(VOXELS[..., k % 8].T).save(folder / f"{name}.png")
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as error:
        Slices().read(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "mask",
    ["x_{}_mask", "mask_{}", "x_{}_seg", "x_{}_gt", "x_{}_label", "{}Mask", "x{}-GroundTruth", "ground_truth_{}"],
)
def test_masks_among_slices_are_left_out_with_a_note(tmp_path, mask):
    folder = write(tmp_path / "scan", [f"x_{k}" for k in range(8)])
    for k in range(8):
        Image.fromarray(np.full((12, 10), 255 * (k % 2), np.uint8)).save(folder / f"{mask.format(k)}.png")
    volume = Slices().read(folder)
    assert np.array_equal(volume.array, VOXELS)
    assert f"8 masks beside its slices (such as {mask.format(0)}.png) are skipped" in volume.notes


def test_masks_between_slices_that_only_numbers_name_are_refused(tmp_path):
    folder = write(tmp_path / "scan", [f"{2 * k:02d}" for k in range(8)])
    for k in range(8):
        mask = 255 * (VOXELS[..., k].T > 128).astype(np.uint8)
        Image.fromarray(mask).save(folder / f"{2 * k + 1:02d}.png")
    assert "8 pictures of two values (such as 01.png) between 8 of many, as if masks lay among slices" in refused(
        folder
    )


def test_a_few_slices_of_two_values_and_label_maps_of_more_are_read(tmp_path):
    scan = VOXELS.copy()
    scan[..., 0] = np.arange(12) > 5  # an end of the stack
    labels = VOXELS % 12
    labels[..., :4] %= 2
    for name, voxels in {"scan": scan, "labels": labels}.items():
        (tmp_path / name).mkdir()
        for k in range(8):
            Image.fromarray(voxels[..., k].T).save(tmp_path / name / f"{k}.png")
        assert np.array_equal(Slices().read(tmp_path / name).array, voxels)


@pytest.mark.parametrize("name", ["mask_{}", "p1_{}_seg", "label{}"])
def test_a_folder_of_nothing_but_masks_is_a_label_map(tmp_path, name):
    assert np.array_equal(Slices().read(write(tmp_path / "labels", [name.format(k) for k in range(8)])).array, VOXELS)


def test_words_that_only_begin_like_masks_are_none(tmp_path):
    folder = write(tmp_path / "scan", [*(f"x{k}" for k in range(4)), *(f"segment{k}" for k in (4, 5))])
    with pytest.raises(DataError, match="2 scans by their names"):  # but then they are of another scan
        Slices().read(folder)


def test_one_slice_beside_its_mask_is_no_scan(tmp_path):
    folder = write(tmp_path / "scan", ["x", "x_mask"])
    assert "has 1 slices beside 1 masks (such as x_mask.png)" in refused(folder)


@pytest.mark.parametrize(
    "names",
    [
        [f"patient{p:03d}_slice{k:03d}" for p in range(2) for k in range(4)],
        [f"slice{k:03d}_patient{p:03d}" for p in range(2) for k in range(4)],
        [f"IM-{p:04d}-{k:04d}" for p in (1, 2) for k in range(4)],
        [f"{name}_{k}" for name in ("anna", "ben") for k in range(4)],
        [f"{p}.{k:02d}" for p in (1, 2) for k in range(1, 5)],
        [*(f"BRATS_001_z{k}" for k in range(7)), "BRATS_002_z0"],
        [f"subject{p}" for p in range(8)],
        [f"{k}_{kind}" for k in range(4) for kind in ("t1", "flair")],
    ],
)
def test_slices_of_several_scans_in_one_folder_are_refused(tmp_path, names):
    folder = write(tmp_path / "flat", names)
    assert "scans by their names" in refused(folder)
    assert "put those of each scan into a folder of its own" in refused(folder)
    (only,) = list_scans(dataset_of(str(tmp_path / "flat")), tmp_path)
    assert names[0] in only.unfit


@pytest.mark.parametrize(
    "names",
    [
        [f"{k}" for k in range(1, 9)],
        [f"img{k}" for k in range(1, 9)],
        [f"slice_{k:03d}" for k in range(8)],
        [f"IM-0001-{k:04d}" for k in range(8)],
        [f"BRATS_001_z{k:03d}" for k in range(8)],
        [f"patient7_slice{k}" for k in range(8)],
        [f"slice_{k}_of_8" for k in range(1, 9)],
        [f"slice{k:03d}_pos{37 * k % 11 + 11 * k}" for k in range(8)],
        [f"z{10 + k / 2}" for k in range(8)],
        [f"1.2.840.{k * 7919 % 1000}.{k * 104729 % 997}" for k in range(8)],
        ["base", "mid", "tip"],
        [*(f"a1_s{k}" for k in range(1, 5)), *(f"a2_s{k}" for k in range(5, 9))],
        [f"20230105_{120000 + k}" for k in range(8)],
    ],
)
def test_usual_names_of_slices_are_one_scan(tmp_path, names):
    assert Slices().read(write(tmp_path / "scan", names)).array.shape == (10, 12, len(names))
    assert Slices().parts(tmp_path / "scan") == {"": tmp_path / "scan"}


# ---- palettes ----

VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128), (128, 128, 128)]


def indices() -> np.ndarray:
    """Class 7 in each slice, class 1 in the middle one only."""
    index = np.zeros((3, 16, 16), np.uint8)
    index[:, 2:6, 2:6] = 7
    index[1, 9:13, 9:13] = 1
    return index


def write_palettes(folder: Path, index: np.ndarray, palettes: Sequence[Sequence[tuple[int, int, int]] | None]) -> Path:
    folder.mkdir()
    for k, palette in enumerate(palettes):
        picture = Image.fromarray(index[k])
        if palette is not None:
            picture.putpalette([value for colour in palette for value in colour])
        picture.save(folder / f"{k}.png")
    return folder


def test_a_class_of_a_palette_has_one_value_whatever_else_a_slice_shows(tmp_path):
    volume = Slices().read(write_palettes(tmp_path / "labels", indices(), [VOC] * 3))
    assert np.array_equal(volume.array.transpose(2, 1, 0), indices())
    assert "has a coloured palette, whose indices are taken as values" in volume.notes


def test_classes_without_colour_have_the_same_values_in_a_scan_with_nothing_else(tmp_path):
    index = np.where(indices() == 7, np.uint8(7), np.uint8(0))
    volume = Slices().read(write_palettes(tmp_path / "labels", index, [VOC] * 3))
    assert set(np.unique(volume.array)) == {0, 7}


def test_palettes_cut_to_what_is_used_are_as_good_as_one(tmp_path):
    index = indices()
    index[0] = index[0] // 7
    volume = Slices().read(write_palettes(tmp_path / "labels", index, [VOC[:2], VOC, VOC]))
    assert np.array_equal(volume.array.transpose(2, 1, 0), index)


def test_different_palettes_are_refused_unless_used_indices_agree(tmp_path):
    other = [*VOC[:7], (255, 255, 255)]
    assert "has slices with different palettes" in refused(
        write_palettes(tmp_path / "colour", indices(), [VOC, other, VOC])
    )
    swapped = [VOC[0], VOC[7], *VOC[2:7], VOC[1]]
    index = indices()
    index[2] = index[2] // 7  # the same picture by another index
    assert "has slices with different palettes" in refused(
        write_palettes(tmp_path / "index", index, [VOC, VOC, swapped])
    )
    unused = [*VOC[:5], (1, 2, 3), *VOC[6:]]
    assert Slices().read(write_palettes(tmp_path / "fine", indices(), [VOC, unused, VOC])).array.max() == 7


def test_slices_without_the_palette_of_the_others_need_its_values(tmp_path):
    index = indices()
    volume = Slices().read(write_palettes(tmp_path / "fine", index, [None, VOC, VOC]))
    assert np.array_equal(volume.array.transpose(2, 1, 0), index)
    index[0] *= 18
    assert "has slices with a coloured palette, and others without one that have other values (0.png)" in refused(
        write_palettes(tmp_path / "bad", index, [None, VOC, VOC])
    )


def test_grays_of_a_palette_stay_gray_levels(tmp_path):
    ramp = [(i, i, i) for i in range(256)]
    volume = Slices().read(write_palettes(tmp_path / "ramp", indices(), [ramp] * 3))
    assert np.array_equal(volume.array.transpose(2, 1, 0), indices())
    assert not [note for note in volume.notes if "palette" in note]
    steps = [(30 * i, 30 * i, 30 * i) for i in range(8)]
    volume = Slices().read(write_palettes(tmp_path / "steps", indices(), [steps] * 3))
    assert np.array_equal(volume.array.transpose(2, 1, 0), 30 * indices())
    assert "has a palette of grays, which are taken as values instead of their indices" in volume.notes
