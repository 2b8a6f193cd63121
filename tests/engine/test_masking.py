"""Covered patches: how many, where, what they show, and that tasks which cover alike share one image."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmtl_toolkit.engine.masking import Masking
from ssmtl_toolkit.engine.step import Batch, Step

SHARES = st.floats(0.01, 0.99)
SIDES = st.floats(0.04, 0.5)
FILLS = ["zero", "noise", "swap"]


def slices(number=3, channels=2, height=24, width=20):
    return torch.randn(number, channels, height, width, generator=torch.Generator().manual_seed(1))


def bounds(length, parts):
    """Where parts begin, and the end: the first pixel at or behind each of the points that divide the length evenly."""
    return [next(i for i in range(length + 1) if i * parts >= part * length) for part in range(parts + 1)]


def patches(height, width, side):
    """The patches as slices of numpy, row by row."""
    along = max(2, round(1 / side))
    rows, columns = (bounds(length, min(along, length)) for length in (height, width))
    return [np.s_[top:bottom, left:right] for top, bottom in pairwise(rows) for left, right in pairwise(columns)]


@given(share=SHARES, side=SIDES, fill=st.sampled_from(FILLS), height=st.integers(8, 40), width=st.integers(8, 40))
def test_whole_patches_are_covered_as_many_as_asked_and_the_rest_is_as_it_was(share, side, fill, height, width):
    image = slices(height=height, width=width)
    masked = Masking(share, side, fill).cover(image)
    assert torch.equal(image, slices(height=height, width=width))
    places = patches(height, width, side)
    least = 2 if fill == "swap" else 1
    wanted = min(max(round(share * len(places)), least), len(places) - 1)
    for covered in masked.covered[:, 0].numpy():
        shares = [covered[place].mean() for place in places]
        assert sorted(set(shares)) == [0, 1]
        assert sum(shares) == wanted
    shown = ~masked.covered.expand_as(image)
    assert torch.equal(masked.image[shown], image[shown])
    assert torch.equal(masked.visible, torch.where(shown, image, 0.0))


def test_sizes_of_patches_differ_by_a_pixel_at_most():
    for length in range(8, 60):
        for parts in range(2, 9):
            assert set(np.diff(bounds(length, parts))) <= {length // parts, -(-length // parts)}


def test_which_patches_are_covered_is_drawn_for_each_slice_by_torchs_generator():
    torch.manual_seed(3)
    order = torch.rand(3, 16).numpy().argsort(axis=1)
    torch.manual_seed(3)
    masked = Masking(0.5, 0.25, "zero").cover(slices())
    for covered, chosen in zip(masked.covered[:, 0].numpy(), order[:, :8], strict=True):
        expected = np.zeros((24, 20), bool)
        for patch in chosen:
            expected[patches(24, 20, 0.25)[patch]] = True
        assert np.array_equal(covered, expected)
    assert len({covered.numpy().tobytes() for covered in masked.covered}) == 3


def test_covered_patches_show_zero_or_noise_of_unit_variance():
    image, covered = slices(8, 1, 64, 64) + 5, {}
    for fill in ("zero", "noise"):
        masked = Masking(0.75, 0.125, fill).cover(image)
        covered[fill] = masked.image[masked.covered]
    assert not covered["zero"].any()
    assert covered["noise"].mean().item() == pytest.approx(0, abs=0.05)
    assert covered["noise"].std().item() == pytest.approx(1, abs=0.05)


def test_swapped_patches_show_each_other():
    torch.manual_seed(3)
    order = torch.rand(3, 16).numpy().argsort(axis=1)
    torch.manual_seed(3)
    image = slices()
    masked = Masking(0.25, 0.25, "swap").cover(image)
    places = patches(24, 20, 0.25)
    for found, was, chosen in zip(masked.image.numpy(), image.numpy(), order[:, :4], strict=True):
        expected = was.copy()
        for here, there in zip(chosen, np.roll(chosen, -1), strict=True):
            expected[(slice(None), *places[here])] = was[(slice(None), *places[there])]
        assert np.array_equal(found, expected)


@given(share=SHARES, side=SIDES, height=st.integers(8, 40), width=st.integers(8, 40))
def test_swapped_patches_hold_pixels_of_their_own_slice_however_sizes_divide(share, side, height, width):
    image = torch.arange(2.0 * height * width).view(2, 1, height, width)
    masked = Masking(share, side, "swap").cover(image)
    for found, was, covered in zip(masked.image, image, masked.covered, strict=True):
        assert set(found[covered].tolist()) <= set(was[covered].tolist())
        assert (found[covered] != was[covered]).all()


def test_tasks_that_cover_alike_get_one_image_and_others_another():
    made = {}
    batch = Batch(slices(), {})
    one, two = (Step(batch, None, {}, made) for _ in range(2))
    first = Masking(0.5, 0.25, "zero").of(one)
    assert Masking(0.5, 0.25, "zero").of(two).image is first.image
    assert Masking(0.5, 0.25, "noise").of(two).image is not first.image
    assert not torch.equal(Masking(0.5, 0.25, "zero").of(Step(batch, None, {})).image, first.image)


def test_what_tasks_have_in_common_is_made_once_even_if_it_is_nothing():
    calls = []
    step = Step(Batch(slices(), {}), None, {})
    assert [step.common("key", lambda: calls.append(1)) for _ in range(3)] == [None] * 3
    assert calls == [1]
