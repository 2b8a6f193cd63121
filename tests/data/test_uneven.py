"""Unevenly spaced slices: refused with the distances, or resampled by their true positions, with the way back."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssmtl_toolkit.data.grid import turned
from ssmtl_toolkit.data.lattice import Line
from ssmtl_toolkit.data.prepare import Sliced, prepare
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.data.wayback import WayBack
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import PreparationSpec

AXES = ("sagittal", "coronal", "axial")


def options(*texts, axis="axial"):
    specs = tuple(registry().resolve(PreparationSpec, text) for text in texts)
    return Slicing(axis=axis, size=16, prepare=specs)


@st.composite
def uneven(draw):
    """A scan with unevenly spaced slices along any of its axes, each of these in any direction."""
    steps = draw(st.lists(st.floats(0.5, 8), min_size=4, max_size=12))
    positions = tuple(np.cumsum([0.0, *steps]).tolist())
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    shape, spacing = [10, 11, 12], [0.8, 0.9, 1.1]
    axis = draw(st.integers(0, 2))
    shape[axis], spacing[axis] = len(positions), positions[-1] / len(steps)
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[list(order), range(3)] = np.multiply(signs, spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-99, 99)] * 3))
    array = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    return Volume(array, affine, tuple(spacing), axis, positions=positions)


def along(volume, values):
    """An array of the shape of a volume with these values along its axis of slices."""
    shape = [-1 if i == volume.slice_axis else 1 for i in range(3)]
    return np.broadcast_to(np.array(values).reshape(shape), volume.shape)


def cut_of(volume):
    return AXES[int(nib.orientations.io_orientation(volume.affine)[volume.slice_axis, 0])]


@settings(max_examples=60, deadline=None)
@given(uneven(), st.floats(0.4, 10), st.sampled_from(AXES))
def test_a_ramp_across_uneven_slices_becomes_an_even_ramp(volume, distance, axis):
    ramp = replace(volume, array=along(volume, volume.positions).astype(np.float32))
    stack = Sliced.of(ramp, options(f"resample:stack={distance},spacing={distance}", axis=axis)).stack
    assert not any(stack.positions)
    direction = volume.affine[:3, volume.slice_axis] / volume.spacing[volume.slice_axis]
    grid = np.indices(stack.grid).reshape(3, -1).T
    mm = (nib.affines.apply_affine(stack.affine, grid) - volume.affine[:3, 3]) @ direction
    smoothed = distance if distance > volume.spacing[volume.slice_axis] else 0  # by a triangle of this half width
    inside = (mm >= smoothed) & (mm <= volume.positions[-1] - smoothed)
    assert np.abs(stack.slices[:, 0].ravel() - mm)[inside].max(initial=0) < 1e-3


@settings(max_examples=60, deadline=None)
@given(uneven(), st.sampled_from(AXES))
def test_labels_come_back_exactly_on_each_of_the_files_own_slices(volume, axis):
    half = min(np.diff(volume.positions)) / 2
    text = f"resample:stack={half}" if axis == cut_of(volume) else f"resample:spacing={min(half, 0.4)}"
    sliced = Sliced.of(volume, options("percentile", text, axis=axis))
    labels = np.array(along(volume, np.random.default_rng(1).integers(0, 4, len(volume.positions))), np.uint8)
    forth = np.ascontiguousarray(sliced.prepared_labels(labels))
    maps = F.one_hot(torch.from_numpy(forth).long(), 4).permute(0, 3, 1, 2).float()
    back = np.full(sliced.cut.grid, 99, np.uint8)
    parts = ((slice(i, i + 3), maps[i : i + 3]) for i in range(0, len(maps), 3))
    for rows, part in WayBack(sliced.lattice).each(parts, torch.tensor([1.0, 0, 0, 0])):
        back[rows] = part.argmax(dim=1)
    assert np.array_equal(sliced.cut.back(back), labels)


@settings(max_examples=60, deadline=None)
@given(uneven(), st.floats(0.4, 10))
def test_each_resampled_slice_has_the_label_of_the_slice_that_is_truly_nearest(volume, distance):
    sliced = Sliced.of(volume, options(f"resample:stack={distance}", axis=cut_of(volume)))
    numbers = np.array(along(volume, np.arange(len(volume.positions))), np.uint8)
    forth = sliced.prepared_labels(numbers)[:, 0, 0].astype(int)
    direction = volume.affine[:3, volume.slice_axis] / volume.spacing[volume.slice_axis]
    points = nib.affines.apply_affine(sliced.stack.affine, [[i, 0, 0] for i in range(len(forth))])
    mm = (points - volume.affine[:3, 3]) @ direction
    off = np.abs(np.array(volume.positions) - mm[:, None])
    assert np.allclose(off[np.arange(len(mm)), forth], off.min(axis=1), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.5, 8), min_size=3, max_size=12), st.floats(0.3, 3))
def test_the_way_there_and_back_along_uneven_voxels_is_one_and_the_same(steps, step):
    at = np.cumsum([0.0, *steps]) / np.mean(steps)
    line = Line.evenly(at, max(1, round(len(at) / step)), step)
    assert np.allclose(line.inverse.positions * step + line.start, at)
    assert np.allclose(line.inverse.inverse.positions, line.positions)
    assert line.inverse.inverse.voxels_at == line.voxels_at
    assert np.allclose(line.weights.sum(axis=1), 1, atol=1e-5)


GAP = Volume(
    np.random.default_rng(0).normal(100, 20, (8, 9, 6)).astype(np.float32),
    np.diag([-1.0, -1.0, 3.0, 1.0]),
    (1.0, 1.0, 3.0),
    positions=(0.0, 2.5, 5.0, 10.0, 12.5, 15.0),
)


def test_uneven_slices_are_refused_unless_they_are_made_even_and_the_remedy_works():
    with pytest.raises(DataError, match=r"is missing slices: from \(0, 0, 5\) to \(0, 0, 10\) mm it is 5 mm"):
        prepare(GAP, Slicing(axis="axial", size=16))
    with pytest.raises(DataError, match=r"--prepare resample:stack=2\.5$"):
        prepare(GAP, options("percentile", "resample:spacing=2"))
    with pytest.raises(DataError, match=r"--prepare resample:spacing=2\.5$"):
        prepare(GAP, options("resample:stack=1", axis="coronal"))
    jittered = replace(GAP, positions=(0.0, 2.2, 5.2, 7.9, 12.1, 15.0))
    with pytest.raises(DataError, match=r"is unevenly spaced: its slices are 2\.2 mm \(1 times\), 3 mm \(1 times\)"):
        prepare(jittered, Slicing(axis="axial", size=16))
    assert len(prepare(GAP, options("resample:stack=2.5")).slices) == 7  # 18 mm, from 1.5 mm before the first slice on
    assert Sliced.of(GAP, options("resample:spacing=2.5", axis="sagittal")).stack.spacing == (1, 2.5, 2.5)


def test_a_crop_along_uneven_slices_says_that_resampling_comes_first():
    with pytest.raises(DataError, match="resample comes before what crops"):
        prepare(GAP, options("fit:pad", axis="coronal"))


def test_axes_that_are_turned_take_positions_along():
    flipped = replace(GAP, affine=GAP.affine @ np.diag([1, 1, -1, 1]), positions=(0.0, 2.0, 5.0, 10.0, 12.5, 15.0))
    assert turned(flipped, GAP).positions == (0.0, 2.5, 5.0, 10.0, 13.0, 15.0)
