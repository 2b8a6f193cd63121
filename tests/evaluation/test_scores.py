"""Scores against brute force: sets of voxels, distances of all pairs of points, formulas written out here."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ssmtl_metrics.images import psnr, ssim
from ssmtl_toolkit.config import EvaluateConfig, scoring
from ssmtl_toolkit.data.classes import IGNORE, Classes, LabelClass
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation import scores

SPACING = (0.7, 1.3, 2.5)


def defaults(surface=True, tolerance=1.0):
    return EvaluateConfig(surface=surface, tolerance=tolerance).chosen_metrics("labels")


def score_scan(name, predicted, truth, classes, spacing, surface, tolerance=1.0):
    named = Classes(tuple(LabelClass(one, (i,)) for i, one in enumerate(classes, 1)))
    return scores.score_scan(name, predicted, truth, named, spacing, defaults(surface, tolerance))


def summarise(scans):
    return scores.summarise(scans, defaults("hd95" in scans[0].values))


def voxels(mask):
    return set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))


def brute_overlap(predicted, truth, index):
    """IoU and Dice of sets of voxels."""
    seen = truth != IGNORE
    ours, theirs = voxels((predicted == index) & seen), voxels((truth == index) & seen)
    return len(ours & theirs) / len(ours | theirs), 2 * len(ours & theirs) / (len(ours) + len(theirs))


def brute_surface(mask, spacing):
    """The points (mm) of voxels of which a face touches something else, or the end of the array."""
    inside = voxels(mask)
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    edge = [v for v in inside if any(tuple(np.add(v, step)) not in inside for step in steps)]
    return np.array(edge, float).reshape(-1, 3) * spacing


def brute_distances(predicted, truth, spacing):
    ours, theirs = brute_surface(predicted, spacing), brute_surface(truth, spacing)
    apart = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(-1))
    return apart.min(1), apart.min(0)


def percentile_95(values):
    """Linear between the nearest ranks."""
    ordered, place = sorted(values), 0.95 * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def brute_hd95(predicted, truth, spacing):
    return max(percentile_95(way) for way in brute_distances(predicted, truth, spacing))


def brute_surface_dice(predicted, truth, spacing, tolerance):
    there, back = brute_distances(predicted, truth, spacing)
    tolerance += 1e-6  # at the tolerance is within it, whatever the rounding
    return (sum(there <= tolerance) + sum(back <= tolerance)) / (len(there) + len(back))


def random_maps(seed, shape=(7, 6, 5), classes=3, ignored=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes + 1, shape).astype(np.uint8)
    predicted = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, classes + 1, shape)).astype(np.uint8)
    truth[rng.random(shape) < ignored] = IGNORE
    return predicted, truth


def smooth_maps(seed, shape=(14, 12, 8)):
    """Two blobs that bleed over the border, the prediction a little off."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.standard_normal(shape), 2) for _ in range(2)]
    off = [field + 0.3 * np.std(field) * gaussian_filter(rng.standard_normal(shape), 1) for field in fields]
    return tuple(np.select([a > a.std() / 2, b > b.std() / 2], [1, 2], 0).astype(np.uint8) for a, b in (off, fields))


def one(predicted, truth, surface=True, **options):
    return score_scan("scan", predicted, truth, ["a", "b"], SPACING, surface, **options)


def box(shape, *corners, index=1):
    made = np.zeros(shape, np.uint8)
    made[tuple(slice(a, b) for a, b in corners)] = index
    return made


# IoU and Dice


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("order", ["C", "F"])
def test_iou_and_dice_are_those_of_sets_of_voxels(seed, order):
    predicted, truth = random_maps(seed)
    found = score_scan("x", np.asarray(predicted, order=order), truth, ["a", "b", "c"], SPACING, False)
    for i in range(3):
        assert (found.values["iou"][i], found.values["dice"][i]) == pytest.approx(
            brute_overlap(predicted, truth, i + 1), rel=1e-12
        )
        seen = truth != IGNORE
        assert found.tp[i] == np.sum((predicted == i + 1) & (truth == i + 1))
        assert found.fp[i] == np.sum((predicted == i + 1) & (truth != i + 1) & seen)
        assert found.fn[i] == np.sum((predicted != i + 1) & (truth == i + 1))
    assert list(found.values) == ["iou", "dice"]


def test_counts_stay_exact_above_the_whole_numbers_of_float32():
    truth = np.ones((2**12, 2**12 + 1, 1), np.uint8)
    assert score_scan("x", truth, truth, ["a"], SPACING, False).tp == (2**24 + 2**12,)
    assert np.float32(2**24 + 1) == 2**24  # what the piecewise counting is there for


def test_254_classes_are_counted_each_by_itself():
    truth = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)  # 255 is IGNORE
    predicted = np.where(truth == IGNORE, 1, truth).astype(np.uint8)
    found = score_scan("x", predicted, truth, [str(i) for i in range(1, 255)], SPACING, False)
    assert found.tp == (1,) * 254
    assert found.fp == found.fn == (0,) * 254


def test_an_index_that_no_class_has_is_not_left_out_silently():
    good, bad = np.ones((2, 2, 2), np.uint8), np.full((2, 2, 2), 3, np.uint8)
    for predicted, truth in ((bad, good), (good, bad), (np.full_like(good, IGNORE), good)):
        with pytest.raises(ValueError, match="above the number of classes"):
            one(predicted, truth)
    with pytest.raises(ValueError, match="shape"):
        one(good, good[:1])


# HD95 and surface Dice


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("maps", [smooth_maps, random_maps])
@pytest.mark.parametrize("tolerance", [0.0, 1.3, 2.0])
def test_surface_scores_are_those_of_all_pairs_of_surface_points(maps, seed, tolerance):
    predicted, truth = maps(seed)
    found = score_scan("x", predicted, truth, ["a", "b", "c"], SPACING, True, tolerance)
    for i in range(2):
        ours, theirs = (predicted == i + 1) & (truth != IGNORE), truth == i + 1
        assert found.values["hd95"][i] == pytest.approx(brute_hd95(ours, theirs, SPACING), abs=1e-5)
        assert found.values["surface_dice"][i] == pytest.approx(
            brute_surface_dice(ours, theirs, SPACING, tolerance), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own
def test_surface_scores_are_those_that_monai_gives_for_the_uncropped_scan(seed):
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    predicted, truth = smooth_maps(seed)
    found = one(predicted, truth, tolerance=1.3)
    for i in range(2):
        pair = [torch.from_numpy(a == i + 1)[None, None] for a in (predicted, truth)]
        how = {"include_background": True, "spacing": list(SPACING)}
        assert found.values["hd95"][i] == pytest.approx(
            float(compute_hausdorff_distance(*pair, percentile=95, **how)), rel=1e-6
        )
        assert found.values["surface_dice"][i] == pytest.approx(
            float(compute_surface_dice(*pair, [1.3], **how)), rel=1e-6
        )


def test_the_spacing_of_each_axis_counts():
    shape = (9, 9, 9)
    truth = box(shape, (4, 5), (4, 5), (4, 5))
    for axis in range(3):
        found = one(np.roll(truth, 2, axis), truth)
        assert found.values["hd95"][0] == pytest.approx(2 * SPACING[axis])
        assert found.values["surface_dice"][0] == 0
        assert one(np.roll(truth, 2, axis), truth, tolerance=2 * SPACING[axis]).values["surface_dice"][0] == 1


# The rule for empty classes


def test_a_class_that_is_in_neither_is_undefined():
    found = one(box((4, 4, 4), (1, 3), (1, 3), (1, 3)), box((4, 4, 4), (1, 3), (1, 3), (1, 3)))
    assert (found.values["iou"], found.values["dice"], found.values["hd95"], found.values["surface_dice"]) == (
        (1, None),
        (1, None),
        (0, None),
        (1, None),
    )
    assert found.penalised == (False, False)


@pytest.mark.parametrize("where", ["truth", "prediction"])
def test_a_class_that_is_in_one_only_gets_zero_and_the_diagonal_of_the_scan(where):
    shape = (4, 5, 6)
    some, none = box(shape, (1, 3), (1, 3), (1, 3), index=2), np.zeros(shape, np.uint8)
    found = one(none, some) if where == "truth" else one(some, none)
    assert (found.values["iou"][1], found.values["dice"][1], found.values["surface_dice"][1]) == (0, 0, 0)
    assert found.values["hd95"][1] == pytest.approx(math.hypot(3 * 0.7, 4 * 1.3, 5 * 2.5))
    assert found.penalised == (False, True)


def test_two_single_voxels_in_opposite_corners_are_as_far_apart_as_the_penalty():
    shape = (4, 5, 6)
    ours, theirs = box(shape, (0, 1), (0, 1), (0, 1)), box(shape, (3, 4), (4, 5), (5, 6))
    found = one(ours, theirs)
    assert found.values["hd95"][0] == pytest.approx(one(ours, np.zeros_like(ours)).values["hd95"][0])
    assert found.penalised == (False, False)
    assert one(ours, ours).values["hd95"][0] == 0


def test_what_nobody_annotated_counts_nowhere():
    truth = np.full((4, 4, 4), IGNORE, np.uint8)
    found = one(np.ones_like(truth), truth)
    assert found.tp == found.fp == found.fn == (0, 0)
    assert (
        found.values["iou"]
        == found.values["dice"]
        == found.values["hd95"]
        == found.values["surface_dice"]
        == (None, None)
    )
    assert found.penalised == (False, False)

    half = truth.copy()
    half[:2] = 1
    found = one(np.ones_like(truth), half)
    assert (found.values["iou"][0], found.values["hd95"][0], found.values["surface_dice"][0]) == (1, 0, 1)


# The summary


def some_scans(surface=True):
    return [score_scan(f"p{i}", *smooth_maps(i), ["a", "b", "never"], SPACING, surface) for i in range(3)]


def test_pooled_scores_are_those_of_all_voxels_together_and_not_means_of_scans():
    maps = [random_maps(i, (3 + 2 * i, 6, 5)) for i in range(4)]
    found = summarise([score_scan(str(i), *pair, ["a", "b", "c"], SPACING, False) for i, pair in enumerate(maps)])
    predicted, truth = (np.concatenate(side) for side in zip(*maps, strict=True))
    for i, name in enumerate("abc"):
        iou, dice = brute_overlap(predicted, truth, i + 1)
        each = [brute_overlap(*pair, i + 1) for pair in maps]
        entry = found["classes"][name]
        assert entry["iou"] == pytest.approx(iou, rel=1e-12)
        assert entry["dice_pooled"] == pytest.approx(dice, rel=1e-12)
        assert entry["dice"]["mean"] == pytest.approx(sum(d for _, d in each) / 4, rel=1e-12)
        assert entry["iou_per_scan"]["mean"] == pytest.approx(sum(j for j, _ in each) / 4, rel=1e-12)
        mean = sum(d for _, d in each) / 4
        assert entry["dice"]["sd"] == pytest.approx(math.sqrt(sum((d - mean) ** 2 for _, d in each) / 3), rel=1e-9)
    assert found["mean"]["iou"] == pytest.approx(sum(found["classes"][n]["iou"] for n in "abc") / 3, rel=1e-12)


def test_a_class_that_is_nowhere_is_none_counted_and_in_no_mean():
    found = summarise(some_scans())
    never = found["classes"]["never"]
    assert never["iou"] is never["dice_pooled"] is None
    assert never["dice"] == {"mean": None, "sd": None, "n": 0, "undefined": 3}
    assert never["hd95"] == {"mean": None, "sd": None, "n": 0, "undefined": 3, "penalised": 0}
    assert found["undefined_classes"] == 1
    for score in ("dice", "hd95", "surface_dice"):
        both = [found["classes"][name][score]["mean"] for name in "ab"]
        assert found["mean"][score] == pytest.approx(sum(both) / 2)


def test_scans_without_a_class_are_counted_and_not_in_its_mean():
    shape = (4, 4, 4)
    truth, none = box(shape, (1, 3), (1, 3), (1, 3)), np.zeros(shape, np.uint8)
    pairs = [(truth, truth), (none, none), (none, truth)]
    found = summarise([score_scan(str(i), *pair, ["a"], (1, 1, 1), True) for i, pair in enumerate(pairs)])
    entry = found["classes"]["a"]
    assert entry["dice"]["mean"] == 0.5
    assert (entry["dice"]["n"], entry["dice"]["undefined"]) == (2, 1)
    assert entry["hd95"]["mean"] == pytest.approx(math.hypot(3, 3, 3) / 2)
    assert (entry["hd95"]["n"], entry["hd95"]["undefined"], entry["hd95"]["penalised"]) == (2, 1, 1)


def test_a_summary_is_json_with_an_entry_for_each_scan():
    found = json.loads(json.dumps(summarise(some_scans()), allow_nan=False))
    assert [scan["name"] for scan in found["scans"]] == ["p0", "p1", "p2"]
    scan = found["scans"][0]["classes"]["a"]
    assert list(scan) == ["tp", "fp", "fn", "iou", "dice", "penalised", "hd95", "surface_dice"]
    assert found["rule"] == scores.RULE
    assert "hd95" not in json.dumps(summarise(some_scans(surface=False))["mean"])


def test_scans_with_other_classes_are_not_summed_up():
    with pytest.raises(ValueError, match="different classes"):
        summarise([*some_scans(), one(*smooth_maps(0))])


# Without MONAI


def test_without_monai_only_what_needs_it_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(scoring, "find_spec", lambda name: None)
    predicted, truth = smooth_maps(0)
    assert one(predicted, truth, surface=False).values["iou"][0] is not None
    install = r"pip install 'ssmtl-toolkit\[metrics\]'"
    with pytest.raises(UsageError, match=rf"HD95 and surface Dice \(--surface\) need MONAI, .*{install}"):
        defaults(surface=True)
    with pytest.raises(UsageError, match=rf"^HD95 needs MONAI, which is not installed: {install}"):
        EvaluateConfig(metrics=("hd95",)).chosen_metrics("labels")
    for output, kept in (("labels", ["iou", "dice"]), ("image", ["psnr"])):
        assert [metric.name for metric in EvaluateConfig().chosen_metrics(output)] == kept
    assert EvaluateConfig().omitted("labels") == "no HD95 and surface Dice without MONAI: " + install.replace("\\", "")


# PSNR and SSIM


def some_slices(seed=0):
    rng = np.random.default_rng(seed)
    clean = gaussian_filter(rng.standard_normal((4, 40, 33)), (0, 3, 3)) * np.array([1, 10, 300, 0.02])[:, None, None]
    clean += np.array([0, -5, 900, 0.3])[:, None, None]
    noisy = clean + 0.1 * np.ptp(clean, axis=(1, 2), keepdims=True) * rng.standard_normal(clean.shape)
    return tuple(torch.from_numpy(a.astype(np.float32))[:, None] for a in (clean, noisy))


def test_psnr_is_the_formula_with_the_range_of_each_clean_slice():
    clean, noisy = some_slices()
    found = psnr(clean, noisy).numpy()
    for i in range(4):
        a, b = clean[i, 0].double().numpy(), noisy[i, 0].double().numpy()
        assert found[i] == pytest.approx(20 * np.log10(a.max() - a.min()) - 10 * np.log10(np.mean((a - b) ** 2)))
    assert found == pytest.approx(20, abs=0.5)  # noise of a tenth of the range


def test_psnr_of_equal_slices_is_infinite_and_of_a_slice_of_one_value_undefined():
    clean, noisy = some_slices()
    assert torch.isinf(psnr(clean, clean)).all()
    flat = torch.full_like(clean, 3.0)
    assert torch.isnan(psnr(flat, noisy)).all()
    assert torch.isnan(psnr(flat, flat)).all()
    assert torch.isfinite(psnr(noisy, flat)).all()


def formula_ssim(a, b):
    """Wang et al. 2004, equation 13, with a Gaussian window of 11 x 11, in float64, where the window fits."""
    value_range = a.max() - a.min()
    a, b = (a - a.min()) / value_range, (b - a.min()) / value_range
    blur = lambda image: gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]  # noqa: E731
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return np.mean(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))


def test_ssim_is_the_formula_with_the_clean_slice_from_0_to_1():
    clean, noisy = some_slices()
    expected = [formula_ssim(*(s[i, 0].double().numpy() for s in (clean, noisy))) for i in range(4)]
    assert ssim(clean, noisy).numpy() == pytest.approx(expected, abs=1e-4)
    assert 0.05 < min(expected) < max(expected) < 0.95


def test_ssim_does_not_change_when_both_slices_are_moved_and_scaled_and_is_1_for_equal_ones():
    clean, noisy = some_slices()
    assert torch.allclose(ssim(clean, noisy), ssim(7 * clean - 100, 7 * noisy - 100), atol=1e-3)
    assert torch.allclose(ssim(clean, clean), torch.ones(4, dtype=torch.float64), atol=1e-6)


def test_ssim_of_a_slice_of_one_value_is_undefined_and_its_neighbours_keep_theirs():
    clean, noisy = some_slices()
    flat = clean.clone()
    flat[1] = 5.0
    found = ssim(flat, noisy)
    assert torch.isnan(found).tolist() == [False, True, False, False]
    assert torch.equal(found[[0, 2, 3]], ssim(clean, noisy)[[0, 2, 3]])


def test_ssim_of_slices_smaller_than_its_window_is_refused():
    with pytest.raises(DataError, match=r"at least 11 x 11 pixels, got 10 x 40"):
        ssim(torch.rand(1, 1, 10, 40), torch.rand(1, 1, 10, 40))


@pytest.mark.parametrize("score", [psnr, ssim])
def test_of_several_channels_a_slice_has_the_mean_of_those_that_are_defined(score):
    clean, noisy = some_slices()
    other = torch.rand(4, 1, 40, 33, generator=torch.Generator().manual_seed(0))
    other[1] = 5.0  # of one value
    both = score(torch.cat([clean, other], dim=1), torch.cat([noisy, noisy], dim=1))
    first, second = score(clean, noisy), score(other, noisy)
    assert torch.allclose(both[[0, 2, 3]], (first + second)[[0, 2, 3]] / 2)
    assert both[1] == first[1]
    blank = torch.full((4, 2, 40, 33), 3.0)
    assert torch.isnan(score(blank, torch.cat([noisy, noisy], dim=1))).all()
