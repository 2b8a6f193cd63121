"""The bundled augmentations against NumPy and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize

from ssmtl_augmentations.place import moved
from ssmtl_augmentations.values import coarsened
from ssmtl_toolkit.engine.augmentation import Augmenter, boxes, identity, sampled, sampled_labels
from ssmtl_toolkit.engine.head import IGNORE
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import AugmentationSpec


def spec(text):
    return registry().resolve(AugmentationSpec, text)


def built(text):
    torch.manual_seed(0)
    return spec(text).build()


def slices(number=6, channels=1, height=32, width=32):
    """Normalised slices, smooth enough that interpolation is no matter of taste."""
    noise = np.random.default_rng(0).normal(size=(number, channels, height, width))
    image = ndimage.gaussian_filter(noise, (0, 0, 1.5, 1.5))
    image -= image.mean(axis=(2, 3), keepdims=True)
    return torch.tensor(image / image.std(axis=(2, 3), keepdims=True), dtype=torch.float32)


def changed(text, image):
    """Slices with other values, all of them."""
    return built(text).values(image)


def moved_by(image, degrees=0.0, shear=0.0, columns=0.0, rows=0.0):
    """One slice, turned, sheared and shifted by these pixels; and where its pixels come from."""
    shift = torch.tensor([[columns / image.shape[3], rows / image.shape[2]]])
    points = moved(identity(image), torch.tensor([math.radians(degrees)]), torch.tensor([shear]), shift)
    return sampled(image, points)[0, 0].numpy(), points


def pixel_maps(points):
    """The affine maps (N, 2, 3) from rows and columns to those that pixels are taken from, by least squares."""
    number, height, width, _ = points.shape
    size = np.array([height, width])
    source = (points.double().numpy()[..., ::-1] + 1) * size / 2 - 0.5
    row, column = np.mgrid[:height, :width]
    here = np.stack([row.ravel(), column.ravel(), np.ones(row.size)], axis=1)
    maps = [np.linalg.lstsq(here, s.reshape(-1, 2), rcond=None)[0].T for s in source]
    assert np.allclose([here @ m.T for m in maps], source.reshape(number, -1, 2), atol=1e-3)
    return np.array(maps)


def by_scipy(image, matrix):
    return ndimage.affine_transform(image, matrix[:, :2], matrix[:, 2], order=1, mode="nearest")


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, -1), (180, 2)])
def test_a_quarter_turn_is_that_of_numpy(degrees, turns):
    image = slices(1)
    turned, _ = moved_by(image, degrees)
    assert np.allclose(turned, np.rot90(image[0, 0], turns), atol=1e-4)


def test_a_shift_by_whole_pixels_is_a_roll_and_what_comes_from_outside_has_no_label():
    image, labels = slices(1), torch.randint(5, (1, 32, 32))
    shifted, points = moved_by(image, columns=3, rows=-2)
    assert np.allclose(shifted[2:, :-3], np.roll(image[0, 0], (2, -3), (0, 1))[2:, :-3], atol=1e-4)
    found = sampled_labels(labels, points)[0].numpy()
    assert np.array_equal(found[2:, :-3], np.roll(labels[0], (2, -3), (0, 1))[2:, :-3])
    assert (found[:2] == IGNORE).all()
    assert (found[:, -3:] == IGNORE).all()


def test_turning_keeps_distances_between_pixels_where_slices_are_not_square():
    (matrix,) = pixel_maps(moved_by(slices(1, height=24, width=40), degrees=30)[1])
    assert np.allclose(matrix[:, :2] @ matrix[:, :2].T, np.eye(2), atol=1e-4)
    assert math.degrees(math.acos(matrix[0, 0])) == pytest.approx(30, abs=1e-2)


def test_shear_shifts_columns_by_rows():
    (matrix,) = pixel_maps(moved_by(slices(1, height=24, width=40), shear=0.25)[1])
    assert np.allclose(matrix[:, :2], [[1, 0], [0.25, 1]], atol=1e-4)


@pytest.mark.parametrize("text", ["affine:rotate=40,shift=0.2,shear=0.3", "scale:by=2,stretch=1.5"])
def test_turned_and_scaled_slices_are_those_of_scipy(text):
    image = slices(height=24, width=40)
    points = built(text).place(identity(image))
    for new, old, matrix in zip(sampled(image, points)[:, 0], image[:, 0], pixel_maps(points), strict=True):
        assert np.allclose(new, by_scipy(old.numpy(), matrix), atol=2e-3)


def test_angles_and_shifts_fill_their_range_evenly():
    maps = pixel_maps(built("affine:rotate=20,shift=0.1").place(identity(torch.zeros(2000, 1, 4, 8))))
    angles = np.degrees(np.arctan2(maps[:, 1, 0], maps[:, 0, 0]))
    shifts = (maps[:, :, :2] @ [1.5, 3.5] + maps[:, :, 2] - [1.5, 3.5]) / [4, 8]  # of the centre
    for drawn, most in ((angles, 20), (shifts[:, 0], 0.1), (shifts[:, 1], 0.1)):
        assert np.abs(drawn).max() == pytest.approx(most, rel=0.01)
        assert np.std(drawn) == pytest.approx(most / math.sqrt(3), rel=0.05)


def test_scale_leaves_the_centre_and_shows_as_many_slices_larger_as_smaller():
    maps = pixel_maps(built("scale:by=2").place(identity(torch.zeros(2000, 1, 4, 8))))
    factor = maps[:, 0, 0]
    assert np.allclose(maps[:, 1, 1], factor, atol=1e-4)
    assert np.allclose(maps[:, :, :2] @ [1.5, 3.5] + maps[:, :, 2], [1.5, 3.5], atol=1e-3)
    assert (factor.min(), factor.max()) == (pytest.approx(0.5, rel=0.01), pytest.approx(2, rel=0.01))
    assert (factor > 1).mean() == pytest.approx(0.5, abs=0.05)


def test_stretch_drives_the_axes_apart_by_at_most_its_ratio():
    maps = pixel_maps(built("scale:by=1.2,stretch=1.5").place(identity(torch.zeros(2000, 1, 4, 8))))
    ratio = maps[:, 0, 0] / maps[:, 1, 1]
    assert (ratio.min(), ratio.max()) == (pytest.approx(1 / 1.5, rel=0.01), pytest.approx(1.5, rel=0.01))


def test_elastic_shifts_have_their_deviation_at_the_nodes_and_are_smooth_between():
    start = identity(torch.zeros(500, 1, 61, 31))
    shares = (built("elastic:shift=0.05,cells=4").place(start) - start).double().numpy() / 2
    nodes = shares[:, ::20, ::10]
    assert nodes.std() == pytest.approx(0.05, rel=0.03)
    assert abs(np.corrcoef(nodes[:, 0, 0, 0], nodes[:, 1, 0, 0])[0, 1]) < 0.15  # drawn independently
    assert abs(np.corrcoef(nodes[..., 0].ravel(), nodes[..., 1].ravel())[0, 1]) < 0.05
    assert np.abs(np.diff(shares, axis=1)).max() < 0.02  # a node's largest shift is 0.2, over 20 pixels
    assert np.diff(shares, n=2, axis=1).std() < 0.02 * shares.std()


@pytest.mark.parametrize(
    ("axes", "forms"), [("lr", [(2,)]), ("ud", [(1,)]), ("both", [(1,), (2,), (1, 2)])], ids=["lr", "ud", "both"]
)
def test_mirrored_slices_are_those_of_numpy(axes, forms):
    image = slices(30, channels=2, height=24, width=40)
    new = sampled(image, built(f"flip:axes={axes}").place(identity(image))).numpy()
    seen = set()
    for old, turned in zip(image.numpy(), new, strict=True):
        matching = [form for form in forms if np.allclose(turned, np.flip(old, form), atol=1e-4)]
        seen.update(matching)
        assert len(matching) == 1
    assert seen == set(forms)


def test_intensity_is_a_line_of_its_own_for_each_channel():
    image = slices(100, channels=3)
    new = changed("intensity:scale=0.2,shift=0.4", image)
    lines = []
    for old, bright in zip(image.flatten(0, 1).numpy(), new.flatten(0, 1).numpy(), strict=True):
        slope, height = np.polyfit(old.ravel(), bright.ravel(), 1)
        assert np.allclose(bright, slope * old + height, atol=1e-4)
        lines.append((slope, height))
    slopes, heights = np.array(lines).T
    assert (slopes.min(), slopes.max()) == (pytest.approx(0.8, abs=0.01), pytest.approx(1.2, abs=0.01))
    assert (heights.min(), heights.max()) == (pytest.approx(-0.4, abs=0.02), pytest.approx(0.4, abs=0.02))
    assert abs(np.corrcoef(slopes[::3], slopes[1::3])[0, 1]) < 0.3


def test_contrast_spreads_about_the_mean_and_stays_in_the_range():
    image = slices(60)
    factors = []
    for old, new in zip(image.numpy()[:, 0], changed("contrast:by=2", image).numpy()[:, 0], strict=True):
        near = np.unravel_index(np.argsort(np.abs(old - old.mean()), axis=None)[200], old.shape)  # is not clipped
        factor = (new[near] - old.mean()) / (old[near] - old.mean())
        expected = np.clip(old.mean() + factor * (old - old.mean()), old.min(), old.max())
        assert np.allclose(new, expected, atol=2e-3)
        factors.append(factor)
    assert 0.49 < min(factors) < 0.6 < 1.6 < max(factors) < 2.01


@pytest.mark.parametrize("inverted", [0, 1])
def test_gamma_is_a_power_of_the_share_of_the_range_and_keeps_mean_and_deviation(inverted):
    image = slices(60)
    powers = []
    new_image = changed(f"gamma:by=2,invert={inverted}", image)
    for old, new in zip(image.numpy()[:, 0], new_image.numpy()[:, 0], strict=True):
        share, powered = ((x - x.min()) / (x.max() - x.min()) for x in ((-1) ** inverted * x for x in (old, new)))
        middle = np.unravel_index(np.argsort(np.abs(share - 0.5), axis=None)[0], old.shape)
        power = math.log(powered[middle]) / math.log(share[middle])
        assert np.allclose(powered, share**power, atol=1e-3)
        assert (new.mean(), new.std()) == (pytest.approx(old.mean(), abs=1e-4), pytest.approx(old.std(), rel=1e-3))
        powers.append(power)
    assert 0.49 < min(powers) < 0.6 < 1.7 < max(powers) < 2.01


def test_gamma_inverts_its_share_of_the_slices():
    new = changed("gamma:by=4,invert=0.25", torch.linspace(-2, 2, 25).view(1, 1, 5, 5).expand(2000, -1, -1, -1))
    low, high = new[:, 0, 0, 0], new[:, 0, 4, 4]
    middle, quarter = ((new[:, 0, i, j] - low) / (high - low) for i, j in ((2, 2), (1, 1)))
    power = torch.log(middle) / math.log(0.5)
    is_power = (quarter - 0.25**power).abs() < 1e-3  # otherwise 1 - 0.75^g
    assert float(is_power.float().mean()) == pytest.approx(0.75, abs=0.03)


def test_noise_is_white_and_its_deviation_even_from_zero_to_the_largest():
    image = slices(400, channels=2)
    noise = (changed("noise:sigma=0.5", image) - image).numpy()
    deviations = noise.std(axis=(2, 3)).ravel()
    assert (deviations.min(), deviations.max()) == (pytest.approx(0, abs=0.01), pytest.approx(0.5, rel=0.05))
    assert deviations.mean() == pytest.approx(0.25, rel=0.05)
    assert abs(np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]) < 0.01
    assert noise.mean() == pytest.approx(0, abs=0.002)


def test_blurred_slices_are_those_of_scipy():
    image = torch.tensor(np.random.default_rng(0).normal(size=(20, 2, 32, 24)), dtype=torch.float32)
    sigmas = []
    for old, new in zip(image.numpy(), changed("blur:sigma=2", image).numpy(), strict=True):
        blurred = [lambda s, x=x: ndimage.gaussian_filter(x.astype(float), s, mode="mirror", radius=6) for x in old]
        found = optimize.minimize_scalar(lambda s, b=blurred, n=new: np.abs(b[0](s) - n[0]).max(), bounds=(0.4, 2.1))
        assert np.allclose(new[1], blurred[1](found.x), atol=2e-3)  # one σ for all channels
        sigmas.append(found.x)
    assert 0.49 < min(sigmas) < 0.8 < 1.7 < max(sigmas) < 2.01


def test_low_resolution_by_three_shows_every_third_pixel_and_lines_between():
    image = slices(2, height=24, width=36)
    for old, new in zip(image[:, 0].numpy(), coarsened(image, torch.tensor([3.0, 3.0]))[:, 0], strict=True):
        places = np.meshgrid(*((np.arange(n) + 0.5) / 3 - 0.5 for n in old.shape), indexing="ij")
        expected = ndimage.map_coordinates(old[1::3, 1::3], places, order=1, mode="nearest")
        assert np.allclose(new[:-1, :-1], expected[:-1, :-1], atol=1e-4)  # beyond the last there is the slice's edge


def test_low_resolution_removes_fine_detail_and_keeps_the_coarse():
    row, column = np.mgrid[:48, :48]
    fine, coarse = (np.cos(2 * np.pi * (row + column) / period) for period in (2.5, 48))
    image = torch.tensor(np.stack([fine, coarse])[None], dtype=torch.float32).repeat(20, 1, 1, 1)
    new = changed("low_resolution:by=3", image)
    kept = [((new[:, i] * image[:, i]).mean(dim=(1, 2)) / (image[:, i] ** 2).mean(dim=(1, 2))) for i in range(2)]
    assert float(kept[0].mean()) < 0.6
    assert float(kept[1].min()) > 0.97


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_boxes_take_at_most_their_share_and_half_of_it_on_average(share):
    torch.manual_seed(0)
    areas = []
    for inside in boxes(2000, (48, 64), share).numpy():
        rows, columns = inside.any(axis=1), inside.any(axis=0)
        assert np.array_equal(inside, rows[:, None] & columns)
        assert all((np.diff(np.flatnonzero(side)) == 1).all() for side in (rows, columns))  # without a gap
        areas.append(inside.mean())
    assert max(areas) <= share
    assert np.mean(areas) == pytest.approx(share / 2, rel=0.1 if share < 1 else 0.15)


def test_boxes_lie_everywhere():
    torch.manual_seed(0)
    covered = boxes(4000, (16, 16), 0.2).float().mean(dim=0)
    assert covered[6:10, 6:10].std() < 0.02
    assert covered.min() > 0.005  # corners too


def test_cutmix_pastes_a_box_of_one_other_slice_with_its_labels():
    labels = torch.arange(16)[:, None, None].expand(-1, 32, 32).clone()
    torch.manual_seed(0)
    image, target = Augmenter([spec("cutmix:p=1,share=0.4")]).labelled(labels[:, None].float(), labels)
    assert torch.equal(image[:, 0].long(), target)
    mixed = 0
    for n, labels_of_one in enumerate(target):
        others = labels_of_one[labels_of_one != n]
        assert len(others.unique()) <= 1
        assert len(others) <= 0.4 * 32 * 32
        mixed += len(others) > 0
    assert mixed > 10
    assert sorted(target.unique().tolist()) == list(range(16))


def test_flips_are_no_part_of_the_default():
    from ssmtl_toolkit.config import FinetuneConfig

    names = FinetuneConfig.model_fields["augment"].default
    assert "flip" not in names
    assert "cutmix" not in names
    assert "affine" in names
