"""Preparations and their way back, on oblique, flipped and anisotropic scans of any size."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch.nn import functional as F

from ssmtl_toolkit.data.lattice import Lattice, Line
from ssmtl_toolkit.data.prepare import Sliced, prepare
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.data.wayback import WayBack
from ssmtl_toolkit.downstream.model import ModelSpec, Predictor
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec, PreparationSpec

EXACT = ("crop", "fit:crop", "fit:pad", "window:-50:300", "percentile", "context:1", "crop:margin=0")
RESAMPLED = ("resample:spacing=1.1", "resample:stack=1.7", "resample:spacing=0.6,stack=4", "fit:squeeze")


def options(*texts, size=24, axis="axial", **more):
    specs = tuple(registry().resolve(PreparationSpec, text) for text in texts)
    return Slicing(axis=axis, size=size, prepare=specs, **more)


@st.composite
def volumes(draw):
    """A bright ellipsoid in noise: any orientation, turned by up to 30 degrees, of any spacing."""
    shape = tuple(draw(st.tuples(*[st.integers(3, 30)] * 3)))
    spacing = draw(st.tuples(*[st.floats(0.5, 5)] * 3))
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    axes = np.zeros((3, 3))
    axes[list(order), range(3)] = signs
    angle = np.deg2rad(draw(st.floats(-30, 30)))
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    affine = nib.affines.from_matvec(
        np.array(turn) @ axes @ np.diag(spacing), draw(st.tuples(*[st.floats(-99, 99)] * 3))
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    distance = sum(
        (np.arange(n).reshape([-1 if i == k else 1 for i in range(3)]) / n - 0.5) ** 2 for k, n in enumerate(shape)
    )
    return Volume((400 * (distance < 0.1) + rng.normal(0, 20, shape)).astype(np.float32), affine, spacing)


def there_and_back(sliced, labels, classes=4):
    """Labels as slices, and these back on the file's grid as maps are: what a perfect network would predict."""
    slices = np.ascontiguousarray(sliced.prepared_labels(labels))
    maps = F.one_hot(torch.from_numpy(slices).long(), classes).permute(0, 3, 1, 2).float()
    background = F.one_hot(torch.tensor(0), classes).float()
    index = np.full(sliced.cut.grid, 99, np.uint8)
    for rows, part in WayBack(sliced.lattice).each(zip(batches(len(maps)), maps.split(3), strict=True), background):
        index[rows] = part.argmax(dim=1)
    return sliced.cut.back(index)


def batches(number):
    return [slice(i, i + 3) for i in range(0, number, 3)]


@settings(max_examples=60, deadline=None)
@given(
    volumes(),
    st.lists(st.sampled_from(EXACT), max_size=4, unique_by=lambda text: text.partition(":")[0]),
    st.sampled_from(["axial", "coronal", "sagittal", "acquisition"]),
)
def test_without_resampling_every_voxel_that_is_seen_comes_back_exactly_and_others_are_background(volume, texts, axis):
    sliced = Sliced.of(volume, options(*texts, size=32, axis=axis))
    labels = np.random.default_rng(0).integers(1, 4, volume.shape, dtype=np.uint8)
    back = there_and_back(sliced, labels)
    if not any(text.startswith(("crop", "fit:crop")) for text in texts):
        assert np.array_equal(back, labels)
    seen = back > 0
    assert seen.any()
    assert np.array_equal(back[seen], labels[seen])
    rows = np.flatnonzero(seen.any(axis=(1, 2)))  # what is seen is one box
    assert seen[rows[0] : rows[-1] + 1].any(axis=(1, 2)).all()


@settings(max_examples=60, deadline=None)
@given(
    volumes(),
    st.lists(st.sampled_from((*EXACT, *RESAMPLED)), max_size=4, unique_by=lambda text: text.partition(":")[0]),
)
def test_labels_keep_their_values_and_lie_within_half_a_voxel_of_where_they_were(volume, texts):
    sliced = Sliced.of(volume, options(*texts))
    for axis, line in enumerate((sliced.lattice or Lattice.of(sliced.cut.grid)).lines):
        numbers = np.broadcast_to(
            np.arange(1, sliced.cut.grid[axis] + 1).reshape([-1 if i == axis else 1 for i in range(3)]), sliced.cut.grid
        ).astype(np.uint8)
        forth = sliced.prepared_labels(sliced.cut.back(numbers), outside=0)
        seen = forth > 0
        at = np.indices(forth.shape)[axis][seen] * line.step + line.start
        assert (np.abs(forth[seen].astype(float) - 1 - at) <= 0.5 + 1e-5).all()
        world = nib.affines.apply_affine(sliced.stack.affine, np.argwhere(seen)[:5])
        voxel = nib.affines.apply_affine(np.linalg.inv(sliced.cut.affine), world)
        assert np.allclose(voxel[:, axis], at[:5], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(volumes(), st.sampled_from(RESAMPLED))
@example(Volume(np.arange(72.0).reshape(3, 3, 8), np.diag([1, 1, 0.5, 1]), (1.0, 1.0, 0.5)), "resample:stack=1.7")
def test_after_resampling_maps_come_back_to_where_they_were(volume, text):
    """A ramp along each axis of the scan is given back by linear interpolation, but for the ends."""
    sliced = Sliced.of(volume, options(text))
    lattice = sliced.lattice or Lattice.of(sliced.cut.grid)
    for axis, line in enumerate(lattice.lines):
        ramp = np.broadcast_to(line.positions.reshape([-1 if i == axis else 1 for i in range(3)]), lattice.grid).astype(
            np.float32
        )
        maps = torch.tensor(ramp[:, None].copy())
        parts = WayBack(sliced.lattice).each(zip(batches(len(maps)), maps.split(3), strict=True), torch.tensor([-1.0]))
        back = torch.cat([part for _, part in parts])[:, 0].numpy()
        assert back.shape == sliced.cut.grid
        index = np.arange(sliced.cut.grid[axis])
        expected = index.clip(min(line.positions), max(line.positions))
        here = np.moveaxis(back, axis, 0)
        assert np.abs(here - expected[:, None, None]).max() < 1e-4


class Identity(torch.nn.Module):
    """A network that gives back what it sees."""

    def forward(self, image):
        return image


def predictor(slicing, channels=1):
    backbone, head = (
        registry().resolve(kind, text) for kind, text in ((BackboneSpec, "unet"), (HeadSpec, "denoising"))
    )
    return Predictor(
        ModelSpec(backbone, head, slicing, None, channels),
        [Identity()],
        Fabric(accelerator="cpu", devices=1),
        batch_size=3,
    )


@settings(max_examples=40, deadline=None)
@given(
    volumes(),
    st.lists(st.sampled_from(("crop", "context:1", "percentile:low=0,high=100")), max_size=3, unique=True),
    st.sampled_from(["fit:crop", "fit:pad"]),
    st.sampled_from(["slice", "scan", "3/200"]),
)
def test_an_identity_network_gives_the_scan_back_on_its_grid(volume, texts, fit, normalise):
    channels = 3 if "context:1" in texts else 1
    levels = "+".join([normalise] * channels) if "/" in normalise else normalise
    slicing = options(*texts, fit, size=32, normalise=levels)
    image, sliced = predictor(slicing, channels).image(volume), Sliced.of(volume, slicing)
    assert image.shape == volume.shape
    across, rows, columns = (line.seen for line in sliced.lattice.inverse.lines)
    seen = sliced.cut.back(across[:, None, None] & rows[:, None] & columns)
    assert np.abs(image - volume.array)[seen].max() < 1e-2
    assert (image[~seen] == np.float32(sliced.lowest[0])).all()


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.3, 4))
def test_the_way_there_and_back_along_a_line_is_one_and_the_same(voxels, samples, step):
    line = Line.of(voxels).centred(samples, step)
    again = line.inverse.inverse
    assert again.start == pytest.approx(line.start, abs=1e-9)
    assert (again.voxels, again.samples) == (voxels, samples)
    assert np.allclose(line.inverse.start + line.inverse.step * line.positions, np.arange(samples), atol=1e-6)
    both = line.then(Line.of(samples).cropped(0, samples))
    assert np.allclose(both.positions, line.positions)
    assert (both.seen == line.seen).all()


@pytest.mark.parametrize(("height", "size"), [(50, 20), (20, 50), (97, 41), (31, 32)])
def test_resampling_is_that_of_torch_with_anti_aliasing(height, size):
    image = np.random.default_rng(0).normal(size=(2, 3, height, height + 7)).astype(np.float32)
    rows, columns = (Line.of(n).centred(size, n / size) for n in image.shape[2:])
    made = Lattice(Line.of(2), rows, columns).sample(image, np.zeros(3))
    expected = F.interpolate(torch.from_numpy(image), (size, size), mode="bilinear", antialias=True)
    assert np.abs(made - expected.numpy()).max() < 1e-5


def chest(spacing=(0.8, 0.8, 2.5)):
    """Air, lung, liver and bone by their HU in rows of a 20 x 16 x 6 scan."""
    array = np.full((20, 16, 6), -1000, np.int16)
    for i, value in enumerate((-700, 60, 700)):
        array[4 + 4 * i : 8 + 4 * i, 4:12] = value
    return Volume(array, np.diag([*spacing, 1.0]), spacing)


def test_several_windows_of_one_ct_become_channels_each_clipped_by_itself():
    slices = Sliced.of(chest(), options("window:lung+-100:200")).stack.slices
    assert slices.shape[1] == 2
    assert (slices[:, 0].min(), slices[:, 0].max()) == (-1000, 150)
    assert sorted(np.unique(slices[:, 1])) == [-100, 60, 200]


@pytest.mark.parametrize(
    ("name", "level", "width"),
    [("lung", -600, 1500), ("mediastinum", 50, 350), ("bone", 400, 1800), ("brain", 40, 80), ("liver", 30, 150)],
)
def test_windows_by_name_are_those_of_radiologists(name, level, width):
    (spec,) = options(f"window:{name}").preparations
    assert spec.windows == ((level - width / 2, level + width / 2),)


def test_one_window_gives_the_slices_of_the_old_option():
    old = prepare(chest(), Slicing(axis="axial", size=16, window=(-100, 200)))
    new = prepare(chest(), options("window:-100:200", size=16))
    assert np.array_equal(old.slices, new.slices)


def test_percentiles_are_those_of_the_scan():
    array = np.random.default_rng(0).normal(0, 1, (12, 12, 5)).astype(np.float32)
    array[0, 0, 0] = 1e6
    made = Sliced.of(Volume(array, np.eye(4), (1, 1, 1)), options("percentile:low=1,high=99")).stack.slices
    low, high = np.percentile(array, (1, 99))
    assert (made.min(), made.max()) == pytest.approx((low, high))


@pytest.mark.parametrize(("axis", "spacing"), [("axial", (2.0, 1.25, 1.25)), ("sagittal", (2.0, 1.25, 1.25))])
def test_resampled_slices_have_the_spacing_that_was_asked_for(axis, spacing):
    volume = chest((0.8, 0.9, 2.5))
    sliced = Sliced.of(volume, options("resample:spacing=1.25,stack=2", axis=axis))
    assert sliced.stack.spacing == pytest.approx(spacing)
    extents = np.array(sliced.cut.grid) * sliced.cut.spacing
    assert (np.abs(np.array(sliced.stack.grid) * spacing - extents) <= np.array(spacing) / 2 + 1e-9).all()
    corners = [nib.affines.apply_affine(s.affine, (np.array(s.grid) - 1) / 2) for s in (sliced.cut, sliced.stack)]
    assert np.allclose(*corners)  # the middle stays where it is
    assert prepare(volume, options("resample:stack=2")).spacing == pytest.approx(2.0)  # by which t=15mm is counted


def test_the_crop_holds_the_body_and_its_margin():
    sliced = Sliced.of(chest(), options("crop:margin=0"))
    assert sliced.lattice.rows.samples == 8  # columns 4 to 12 of the file lie along the rows
    assert sliced.stack.slices.min() > -1000 or sliced.lattice.columns.samples == 12
    wide = Sliced.of(chest(), options("crop:margin=1.6"))
    assert wide.lattice.rows.samples == 12  # 2 pixels of 0.8 mm more on either side
    assert wide.stack.grid[0] == 6  # no slice is dropped


@pytest.mark.parametrize(
    ("how", "shape", "expected"),
    [
        ("pad", (40, 20), (20, 10)),  # shrunk by two, aspect kept, the rest padded
        ("pad", (10, 6), (10, 6)),  # never enlarged
        ("crop", (40, 10), (20, 10)),
        ("squeeze", (40, 10), (20, 20)),
    ],
)
def test_fit_pads_crops_or_squeezes(how, shape, expected):
    array = np.zeros((*shape, 3), np.float32)
    array[..., 1] = np.random.default_rng(0).normal(10, 1, shape)
    volume = Volume(array, np.diag([-1.0, -1.0, 2.0, 1.0]), (1, 1, 2))
    sliced = Sliced.of(volume, options(f"fit:{how}", size=20))
    assert sliced.stack.grid == (3, 20, 20)
    filled = np.argwhere(sliced.stack.slices[1, 0] > 0)
    height, width = filled.max(axis=0) - filled.min(axis=0) + 1
    assert (width, height) == expected


def test_context_shows_the_neighbours_as_channels_and_repeats_the_ends():
    array = np.broadcast_to(np.arange(5.0), (4, 4, 5)).astype(np.float32)
    sliced = Sliced.of(Volume(array, np.eye(4), (1, 1, 1)), options("context:1"))
    assert sliced.stack.slices[:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
    assert np.array_equal(sliced.undone(sliced.stack.slices)[:, 0, 0, 0], np.arange(5))


def test_the_default_keeps_its_keys_in_the_cache_and_a_preparation_has_others():
    plain = Slicing(size=24)
    assert plain.key == [
        '{"axis":"acquisition","size":24,"volume":null,"window":null,"normalise":"slice"}'
    ]  # as version 0.1 wrote it
    keys = [
        str(options(*texts).key) for texts in ((), ("crop",), ("crop:margin=6",), ("fit:pad", "crop"), ("crop", "fit"))
    ]
    assert len(set(keys)) == 5


def test_slices_that_would_not_fit_into_memory_are_refused():
    with pytest.raises(DataError, match=r"as 6 slices of 16000 x 20000 pixels|half of this machine|GiB"):
        Sliced.of(chest((100.0, 100.0, 2.5)), options("resample:spacing=0.001"))
