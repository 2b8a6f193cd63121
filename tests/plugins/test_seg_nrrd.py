"""Segmentations of 3D Slicer: placed on the grid of their scan, layers joined, classes by the names of segments."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ssmtl_toolkit as ssmtl
from helpers.dicom_files import AFFINE
from helpers.small import SMALL, write_pair
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.grid import placed
from ssmtl_toolkit.data.named import merged
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers

SHAPE = (20, 24, 9)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
READERS = installed_readers()


def scan(affine: np.ndarray = AFFINE, shape: tuple[int, int, int] = SHAPE) -> Volume:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Volume(array, affine, tuple(spacing.tolist()))


def seg_nrrd(
    file: Path,
    layers: np.ndarray,
    segments: list[dict[str, str]],
    start: tuple[int, int, int] = (0, 0, 0),
    affine: np.ndarray = AFFINE,
) -> Path:
    """Write `layers` (V, I, J, K), a part of the grid `affine` from voxel `start` on, as Slicer does."""
    lps = LPS @ affine
    origin = (lps @ [*start, 1])[:3]
    several = len(layers) > 1
    vectors = [",".join(f"{x:.9f}" for x in lps[:3, i]) for i in range(3)]
    header = [
        *("NRRD0004", "type: unsigned char", f"dimension: {3 + several}", "space: left-posterior-superior"),
        "sizes: " + " ".join(map(str, (*([len(layers)] if several else []), *layers.shape[1:]))),
        "space directions: " + ("none " if several else "") + " ".join(f"({vector})" for vector in vectors),
        "kinds: " + ("list " if several else "") + "domain domain domain",
        *("encoding: gzip", "space origin: (" + ",".join(f"{x:.9f}" for x in origin) + ")"),
    ]
    for i, segment in enumerate(segments):
        header += [f"Segment{i}_{name}:={value}" for name, value in segment.items()]
    header += ["Segmentation_MasterRepresentation:=Binary labelmap"]
    file.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.ascontiguousarray(layers.transpose(3, 2, 1, 0)).astype(np.uint8).tobytes()
    file.write_bytes("\n".join(header).encode() + b"\n\n" + gzip.compress(voxels))
    return file


def segment(name: str, value: int, layer: int = 0) -> dict[str, str]:
    return {"ID": name, "Name": name, "LabelValue": str(value), "Layer": str(layer)}


CLASSES = Classes.parse("liver=1,tumour=2")


def test_a_cropped_segmentation_is_placed_on_the_grid_of_its_scan(tmp_path):
    part = np.zeros((1, 4, 5, 3), np.uint8)
    part[0, 1:, :2], part[0, 0, 4, 2] = 1, 2
    file = seg_nrrd(tmp_path / "a.seg.nrrd", part, [segment("liver", 1), segment("tumour", 2)], start=(7, 3, 2))
    label = READERS.read_label(file, scan(), CLASSES)
    truth = np.zeros(SHAPE, np.uint8)
    truth[7:11, 3:8, 2:5] = part[0]
    assert np.array_equal(label.array, truth)
    assert np.abs(label.affine - AFFINE).max() < 1e-6
    assert label.notes == ()


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    start=st.tuples(*[st.integers(-3, 12)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_a_part_of_the_grid_in_any_order_and_direction_lands_where_it_is(order, flips, start, size):
    rng = np.random.default_rng(0)
    part = rng.integers(0, 3, size).astype(np.uint8)
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [*start, 1])[:3]
    turn = np.array([[axis, -1 if flip else 1] for axis, flip in zip(order, flips, strict=True)])
    stored = nib.orientations.apply_orientation(part, turn)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, size)
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    label = placed(Volume(stored, affine, spacing), scan())
    truth = np.zeros(SHAPE, np.uint8)  # voxel by voxel
    for at in np.ndindex(*size):
        there = tuple(np.add(at, start))
        if all(0 <= i < n for i, n in zip(there, SHAPE, strict=True)):
            truth[there] = part[at]
    assert np.array_equal(label.array, truth)
    outside = np.count_nonzero(part) - np.count_nonzero(truth)
    assert any("outside of its image" in note for note in label.notes) == (outside > 0)


def test_a_segmentation_on_another_grid_is_refused(tmp_path):
    moved = AFFINE.copy()
    moved[:3, 3] += 0.3 * AFFINE[:3, 2]
    file = seg_nrrd(tmp_path / "a.seg.nrrd", np.ones((1, 4, 5, 3)), [segment("liver", 1)], affine=moved)
    with pytest.raises(DataError, match=r"a\.seg\.nrrd: lies up to 0\.3 voxels off the grid of its image"):
        READERS.read_label(file, scan(), CLASSES)


def test_layers_are_joined_and_the_smaller_segment_is_used_where_they_overlap(tmp_path):
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 2:12, 2:12], layers[1, 4:6, 4:6] = 1, 1
    layers[0, 15, 15] = 2
    described = [segment("liver", 1), segment("tumour", 1, layer=1), segment("vessel", 2)]
    file = seg_nrrd(tmp_path / "a.seg.nrrd", layers, described)
    truth = np.zeros(SHAPE, np.uint8)
    truth[2:12, 2:12], truth[4:6, 4:6], truth[15, 15] = 1, 2, 3  # two segments have LabelValue 1: numbered in order
    label = READERS.read(file)
    assert np.array_equal(label.array, truth)
    assert label.notes == ("36 voxels belong to several segments; they count for the smallest of these",)
    assert READERS.classes(file) == {"liver": (1,), "tumour": (2,), "vessel": (3,)}


def test_segmentations_of_before_2020_have_a_layer_for_each_segment(tmp_path):
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 2], layers[1, 3] = 1, 1
    file = seg_nrrd(tmp_path / "a.seg.nrrd", layers, [{"Name": "liver"}, {"Name": "tumour"}])
    label = READERS.read_label(file, scan(), CLASSES)
    assert (label.array[2] == 1).all()
    assert (label.array[3] == 2).all()


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ([segment("liver", 1), segment("tumour", 2, layer=3)], "names layer 3 of 2"),
        ([{"Name": "x", "LabelValue": "-4"}], "numbers a segment '-4'"),
        ([{"Name": "x", "LabelValue": "0"}], "numbers a segment '0'"),
    ],
)
def test_impossible_segments_are_refused(tmp_path, described, said):
    file = seg_nrrd(tmp_path / "a.seg.nrrd", np.ones((2, *SHAPE)), described)
    with pytest.raises(DataError, match=said):
        READERS.read(file)


# ---- names that are numbered differently ----


def test_a_name_is_one_class_however_the_files_number_it(tmp_path):
    """The trap: 1 is the liver in one file and the tumour in the other."""
    part = np.zeros((1, *SHAPE), np.uint8)
    part[0, 2], part[0, 3] = 1, 2
    one = seg_nrrd(tmp_path / "1.seg.nrrd", part, [segment("Liver", 1), segment("tumour", 2)])
    two = seg_nrrd(tmp_path / "2.seg.nrrd", part, [segment("tumour", 1), segment("liver ", 2), segment("cyst", 3)])
    named = merged([one, two], READERS.classes)
    assert named.classes == {"cyst": (1,), "Liver": (2,), "tumour": (3,)}
    assert not named.agreed
    assert "Liver=2 (in 2 of 2)" in named.note
    classes = Classes.parse("", named.classes)
    for file, liver in ((one, 2), (two, 3)):
        label = READERS.read_label(file, scan(), classes)
        index, unknown = classes.to_index(label.array, "x")
        assert unknown == ()
        assert (index[liver] == 2).all()  # the second class
        assert (index[5 - liver] == 3).all()


def test_classes_chosen_and_renamed_still_find_the_names_of_other_files(tmp_path):
    classes = Classes.parse("lesion=tumour", {"liver": (1,), "tumour": (2,)})
    again = Classes.from_json(classes.to_json())
    assert again.by_name == {"liver": (1,), "tumour": (2,)}
    part = np.zeros((1, *SHAPE), np.uint8)
    part[0, 2], part[0, 3] = 1, 2
    file = seg_nrrd(tmp_path / "2.seg.nrrd", part, [segment("tumour", 1), segment("liver", 2)])
    index, _ = again.to_index(READERS.read_label(file, scan(), again).array, "x")
    assert (index[2] == 1).all()
    assert not index[3].any()


def test_a_value_with_another_name_is_refused_and_one_without_a_real_name_counts_as_the_data_set_says(tmp_path):
    part = np.ones((1, *SHAPE), np.uint8)
    kidney = seg_nrrd(tmp_path / "1.seg.nrrd", part, [segment("kidney", 1)])
    with pytest.raises(DataError, match="calls its value 1 'kidney', and elsewhere that value is 'liver'"):
        READERS.read_label(kidney, scan(), CLASSES)
    nameless = seg_nrrd(tmp_path / "2.seg.nrrd", part, [segment("Segment_1", 1)])
    assert (READERS.read_label(nameless, scan(), CLASSES).array == 1).all()


def test_regions_made_of_named_segments_are_found_by_name_and_those_of_values_count_by_value(tmp_path):
    part = np.zeros((1, *SHAPE), np.uint8)
    part[0, 2], part[0, 3] = 1, 2
    file = seg_nrrd(tmp_path / "1.seg.nrrd", part, [segment("edema", 1), segment("core", 2)])
    named = Classes.parse("whole=edema+core,inner=core", {"core": (1,), "edema": (2,)})
    by_value = Classes.parse("", {"whole": (1, 2), "inner": (2,)})
    for classes in (named, named.parts, by_value, by_value.parts):
        index, _ = classes.to_index(READERS.read_label(file, scan(), classes).array, "x")
        whole, inner = (
            (np.isin(index, np.flatnonzero(owned)) for owned in classes.members)
            if classes.overlap
            else (
                index > 0,
                index == 1 + classes.names.index("whole&inner"),
            )
        )
        assert whole[2:4].all()
        assert inner[3].all()
        assert not inner[2].any()


def test_fine_tuning_takes_the_classes_from_the_names_in_the_files(tmp_path):
    for i in range(3):
        image = nib.load(write_pair(tmp_path, f"p{i}", slices=6, seed=i))
        truth = np.asarray(nib.load(tmp_path / "labels" / f"p{i}.nii.gz").dataobj)
        (tmp_path / "labels" / f"p{i}.nii.gz").unlink()
        order = ["first", "second"] if i else ["second", "first"]  # numbered otherwise in one file
        part = np.select([truth == 10, truth == 20], [1 + order.index("first"), 1 + order.index("second")])
        described = [segment(name, number) for number, name in enumerate(order, start=1)]
        seg_nrrd(tmp_path / "labels" / f"p{i}.seg.nrrd", part[None, 1:], described, (1, 0, 0), image.affine)
    options = {"backbone": SMALL, "size": 32, "steps": 2, "test_scans": 1, "surface": False}
    done = ssmtl.finetune(data=str(tmp_path), out=tmp_path / "ft", **options)
    assert list(done.summary["classes"]) == ["first", "second"]
    scored = done.summary["arms"]["scratch"]["classes"]
    assert set(scored) == {"first", "second"}
