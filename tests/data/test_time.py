"""Scans in time: sequences of frames at each position, from the file to the sampler and back."""

from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from helpers.cine import AFFINE, cine, write_4d, write_cine
from helpers.stores import listed
from ssmtl_toolkit.data.classes import IGNORE, Classes
from ssmtl_toolkit.data.labels import one_of_several, read_label, read_labels
from ssmtl_toolkit.data.postprocess import keep_largest
from ssmtl_toolkit.data.prepare import Sliced, prepare
from ssmtl_toolkit.data.sampling import Extent, Plan, Sampler
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.store import build_store
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.data.wayback import WayBack
from ssmtl_toolkit.data.writing import write_like
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation.scores import score_scan
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import MetricSpec, PreparationSpec, Scan

READERS = installed_readers(in_time=True)
BALL = Classes.of_values([1], None)
offsets = st.lists(st.integers(-8, 8).filter(bool), min_size=1, max_size=6, unique=True)
sequences = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=5)


def options(*texts, size=24, **more):
    specs = tuple(registry().resolve(PreparationSpec, text) for text in texts)
    return Slicing(axis="time", size=size, prepare=specs, **more)


def in_time(array, affine=AFFINE, ms=40.0):
    return Volume(array, affine, tuple(np.linalg.norm(affine[:3, :3], axis=0)), frames=array.shape[3], frame_ms=ms)


def plan_in_time(scans, companions):
    """`scans`: of each the number of positions and of frames."""
    starts = np.cumsum([0, *(positions * frames for positions, frames in scans[:-1])])
    extents = [Extent(int(s), p * t, 40.0, i, t) for i, (s, (p, t)) in enumerate(zip(starts, scans, strict=True))]
    return Plan(extents, [{"task": {"other": companions}}] * len(scans))


@settings(max_examples=150)
@given(sequences, offsets, st.integers(0, 2**62), st.integers(0, 99))
def test_companions_never_leave_their_sequence_and_all_that_exist_are_found(scans, cand, seed, index):
    plan = plan_in_time(scans, cand)
    where = [
        (i, p, t, frames)
        for i, (positions, frames) in enumerate(scans)
        for p in range(positions)
        for t in range(frames)
    ]
    with_partner = [any(0 <= t + o < frames for o in cand) for *_, t, frames in where]
    assert plan.anchors.tolist() == np.flatnonzero(with_partner).tolist()
    if not len(plan.anchors):
        return
    draw = Sampler(plan, 16, seed).draw(index)
    ((rows, has),) = draw.companions
    for row, anchor in zip(rows, draw.anchors[has], strict=True):
        assert where[row][:2] == where[anchor][:2]
        assert where[row][2] - where[anchor][2] in cand
    places = plan.places(draw.anchors)
    assert [(places.index[n], places.count[n]) for n in range(16)] == [where[a][2:] for a in draw.anchors]


@given(st.lists(st.integers(1, 15), min_size=1, max_size=6), offsets, st.integers(0, 2**62))
def test_a_scan_that_is_one_sequence_is_drawn_from_as_slices_in_space_are(lengths, cand, seed):
    wanted = [{"task": {"other": cand}}] * len(lengths)
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    plans = [
        Plan([Extent(s, n, 1.0, 0, frames) for s, n, frames in zip(starts, lengths, length, strict=True)], wanted)
        for length in (lengths, [None] * len(lengths))
    ]
    assert_array_equal(plans[0].anchors, plans[1].anchors)
    if len(plans[0].anchors):
        ours, theirs = (Sampler(plan, 8, seed).draw(3) for plan in plans)
        assert_array_equal(ours.anchors, theirs.anchors)
        for a, b in zip(ours.companions, theirs.companions, strict=True):
            assert_array_equal(a, b)


@st.composite
def scans_in_time(draw):
    """Voxels of any size and orientation, each with its own number; and labels."""
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3, st.integers(2, 5)))
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    axes = np.zeros((3, 3))
    axes[list(order), range(3)] = signs
    affine = nib.affines.from_matvec(axes @ np.diag(draw(st.tuples(*[st.floats(0.5, 5)] * 3))), (1.0, 2.0, 3.0))
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return in_time(array, affine), np.asarray(array % 3, np.uint8)


@settings(max_examples=50, deadline=None)
@given(scans_in_time(), st.sampled_from(["", "fit:pad", "crop:margin=0", "context:1", "percentile"]))
def test_an_identity_gives_the_4d_grid_back_exactly(scan, text):
    volume, labels = scan
    sliced = Sliced.of(volume, options(*([text] if text else [])))
    slices = torch.from_numpy(np.ascontiguousarray(sliced.prepared_labels(labels))).float()[:, None]
    index = np.full(sliced.cut.grid, 99, np.uint8)
    for rows, part in WayBack(sliced.lattice).each([(slice(0, len(slices)), slices)], torch.zeros(1)):
        index[rows] = part[:, 0]
    back = sliced.cut.back(index)
    if text != "crop:margin=0":
        assert_array_equal(back, labels)
    else:
        assert set(np.unique(np.asarray(back, int) - labels)) <= {0, -1, -2}  # what was cropped is background
    assert_array_equal(sliced.cut.back(np.moveaxis(sliced.cut.slices, 1, -1))[..., 0], volume.array)


def test_the_frames_of_a_position_follow_each_other_in_order():
    array = np.zeros((4, 5, 3, 6), np.float32) + 10 * np.arange(3)[:, None] + np.arange(6)
    slices = Sliced.of(in_time(array), options()).stack.slices[:, 0, 0, 0]
    assert slices.tolist() == [10 * k + t for k in range(3) for t in range(6)]


def test_neighbours_shown_with_a_frame_are_frames_of_its_position():
    array = np.zeros((4, 5, 2, 3), np.float32) + 10 * np.arange(2)[:, None] + np.arange(3)
    stack = Sliced.of(in_time(array), options("context:1")).stack
    assert stack.slices[:, :, 0, 0].tolist() == [
        [0, 0, 1], [0, 1, 2], [1, 2, 2], [10, 10, 11], [10, 11, 12], [11, 12, 12],
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["resample:stack=2", "resample:stack=80"])
def test_a_preparation_across_frames_is_refused(text):
    with pytest.raises(DataError, match=r"has frames in time, and preparation .resample"):
        prepare(in_time(cine()[0]), options(text))


def test_channels_in_several_4d_files_are_channels_of_every_frame(tmp_path):
    image, _ = cine(frames=4, slices=2)
    files = [write_4d(tmp_path / f"{name}.nii.gz", image + add) for name, add in (("a", 0), ("b", 100))]
    volume = READERS.read_scan(Scan(files[0], "a", "a", more=(files[1],)))
    assert (volume.frames, volume.channels, volume.shape) == (4, 2, image.shape[:3])
    slices = Sliced.of(volume, options()).stack.slices
    assert slices.shape[:2] == (8, 2)
    assert np.allclose(slices[:, 1] - slices[:, 0], 100, atol=1e-3)
    write_4d(files[1], image[..., :3])
    with pytest.raises(DataError, match=r"b\.nii\.gz: has 26 x 24 x 2 x 3 voxels, .*a\.nii\.gz has 26 x 24 x 2 x 4"):
        READERS.read_scan(Scan(files[0], "a", "a", more=(files[1],)))


def test_the_store_knows_the_sequences_and_pieces_in_space_are_as_they_always_were(tmp_path):
    write_cine(tmp_path, "ab", frames=5)
    scans = listed(tmp_path / "images")
    store = build_store(scans, READERS, options(), tmp_path / "cache")
    assert [(e.start, e.count, e.spacing, e.patient, e.frames) for e in store.extents] == [
        (0, 15, 40.0, 0, 5),
        (15, 15, 40.0, 1, 5),
    ]
    again = build_store(scans, READERS, options(), tmp_path / "cache")
    assert again.extents == store.extents
    assert [scan.axis for scan in store.scans] == ["time", "time"]
    in_space = build_store(scans, installed_readers(), Slicing(size=24, volume=2), tmp_path / "other")
    assert [e.frames for e in in_space.extents] == [None, None]
    (first, _) = sorted((tmp_path / "other").glob("slices/*/*.safetensors"))
    assert b"frames" not in first.read_bytes()


def labels_of(root, name="a", **how):
    scan = Scan(root / "images" / f"{name}.nii.gz", name, name, label=root / "labels" / f"{name}.nii.gz")
    image = READERS.read_scan(scan)
    return read_labels(read_label(scan, READERS, image, BALL), image, BALL, "x", axis="time", **how)


def test_frames_without_any_label_are_not_annotated_unless_they_are_said_to_be(tmp_path):
    root = write_cine(tmp_path, "a", frames=6, labelled=(0, 2))
    labels = labels_of(root)
    assert [bool((labels.index[..., t] == IGNORE).all()) for t in range(6)] == [False, True, False, True, True, True]
    assert not (labels.index[..., [0, 2]] == IGNORE).any()
    assert any("4 of 6 frames have no label and count as not annotated" in note for note in labels.notes)
    assert not (labels_of(root, empty_frames="background").index == IGNORE).any()
    listed_frames = labels_of(root, annotated=(0, 1)).index  # frame 1 is said to show nothing
    assert [bool((listed_frames[..., t] == IGNORE).all()) for t in range(3)] == [False, False, True]


def test_a_3d_label_map_of_a_4d_scan_is_refused_as_is_one_with_other_frames(tmp_path):
    root = write_cine(tmp_path, "a", frames=4)
    label = cine(frames=4)[1]
    write_4d(root / "labels" / "a.nii.gz", label[..., :3])
    with pytest.raises(DataError, match="has 3 frames, and its scan has 4"):
        labels_of(root)
    nib.save(nib.Nifti1Image(label[..., 0], AFFINE), root / "labels" / "a.nii.gz")
    with pytest.raises(DataError, match=r"is a single label map, and its scan has 4 frames; .*a 4-D label map"):
        labels_of(root)


def test_without_axis_time_a_4d_label_map_has_the_volume_that_is_chosen_of_its_scan(tmp_path):
    root, (_, truth) = write_cine(tmp_path, "a", frames=4), cine(frames=4)
    scan = Scan(root / "images" / "a.nii.gz", "a", "a", label=root / "labels" / "a.nii.gz")
    readers = installed_readers()
    image = readers.read_scan(scan, 2)
    assert_array_equal(read_label(scan, readers, image, BALL, 2).array, truth[..., 2])
    write_4d(root / "labels" / "a.nii.gz", truth[..., :3])
    with pytest.raises(DataError, match="has 3 volumes, its scan has 4"):
        read_label(scan, readers, image, BALL, 2)


def test_a_volume_of_a_4d_label_map_that_has_no_label_is_not_annotated(tmp_path):
    root = write_cine(tmp_path, "a", frames=4, labelled=(0,))
    scan = Scan(root / "images" / "a.nii.gz", "a", "a", label=root / "labels" / "a.nii.gz")
    readers = installed_readers()
    for volume in (0, 1):
        image = readers.read_scan(scan, volume)
        label = read_label(scan, readers, image, BALL, volume)
        assert one_of_several(scan, readers, volume)
        labels = read_labels(label, image, BALL, "x", one_of_several=True)
        assert (labels.index == IGNORE).all() == (volume == 1)
    assert not (read_labels(label, image, BALL, "x").index == IGNORE).any()


@pytest.mark.parametrize(("ms", "unit"), [(0.04, "sec"), (40, "msec"), (40000, "usec"), (3, "unknown")])
def test_what_is_written_has_the_distance_and_unit_of_the_frames(tmp_path, ms, unit):
    volume = READERS.read(write_4d(tmp_path / "a.nii.gz", cine()[0], ms, unit))
    write_like(tmp_path / "out.nii.gz", np.zeros(volume.sizes, np.uint8), volume, what="labels")
    write_like(tmp_path / "maps.nii.gz", np.zeros((*volume.sizes, 2), np.float32), volume, what="probabilities")
    for name in ("out", "maps"):
        image, source = (nib.load(tmp_path / f"{one}.nii.gz") for one in (name, "a"))
        assert image.shape[:4] == source.shape
        assert image.header.get_zooms()[:4] == source.header.get_zooms()
        assert image.header.get_xyzt_units() == source.header.get_xyzt_units()
        assert_array_equal(image.affine, source.affine)


def test_frames_of_another_format_are_written_with_ms(tmp_path):
    write_like(
        tmp_path / "out.nii.gz", np.zeros((4, 5, 2, 3), np.uint8), in_time(np.zeros((4, 5, 2, 3))), what="labels"
    )
    image = nib.load(tmp_path / "out.nii.gz")
    assert (image.header.get_zooms()[3], image.header.get_xyzt_units()[1]) == (40.0, "msec")


class Moved(MetricSpec):
    """How far the middle of a mask is from where it should be, in mm."""

    name: ClassVar[str] = "moved"

    def score(self, comparison):
        middles = [np.argwhere(mask).mean(axis=0) for mask in (comparison.predicted, comparison.truth)]
        return float(np.linalg.norm((middles[0] - middles[1]) * comparison.spacing))


def test_the_score_of_a_scan_is_the_mean_over_frames_each_compared_as_a_volume():
    truth = np.zeros((8, 8, 2, 3), np.uint8)
    truth[2:5, 2:5, 0, 0] = truth[2:5, 2:5, 0, 1] = 1
    truth[..., 2] = IGNORE
    predicted = np.zeros_like(truth)
    predicted[2:5, 2:5, 0, 0] = predicted[2:5, 3:6, 0, 1] = 1
    predicted[:3, :3, 0, 2] = 1  # where nobody annotated
    metrics = [registry().resolve(MetricSpec, "dice"), Moved()]
    scores = score_scan("x", predicted, truth, BALL, (1.0, 2.0, 8.0), metrics)
    assert (scores.tp, scores.fp, scores.fn) == ((15,), (3,), (3,))
    assert scores.values["dice"][0] == pytest.approx((1 + 6 / 9) / 2)
    assert scores.values["moved"][0] == pytest.approx((0 + 2.0) / 2)


def test_the_largest_part_is_kept_in_each_frame_by_itself():
    index = np.zeros((6, 6, 1, 2), np.uint8)
    index[0:2, 0:2, 0, 0] = index[4, 4, 0, 0] = index[4:6, 4:6, 0, 1] = index[0, 0, 0, 1] = 1
    kept = keep_largest(index, [[1]])
    assert kept.sum(axis=(0, 1, 2)).tolist() == [4, 4]
    assert kept[5, 5, 0, 1] == 1


def test_a_volume_cannot_be_chosen_where_all_are_frames():
    with pytest.raises(UsageError, match="--volume 1: with --axis time all volumes"):
        options(volume=1).check_frames()


def test_a_scan_in_time_is_cut_in_time_only_and_a_volume_never():
    with pytest.raises(DataError, match="cannot be cut along --axis axial: it is a scan in time"):
        Sliced.of(in_time(cine()[0]), Slicing(axis="axial"))
    with pytest.raises(DataError, match="cannot be cut along --axis time: it is a single volume"):
        Sliced.of(Volume(cine()[0][..., 0], AFFINE, (0.9, 0.8, 8.0)), options())
