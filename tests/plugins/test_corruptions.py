"""What is done to slices that are to be given back: each corruption by itself, and how often it happens."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from helpers.slices import numbers
from helpers.slices import smooth_slices as slices
from ssmtl_restore import corruptions
from ssmtl_restore.corruptions import Mix

CORRUPTIONS = ("curve", "blur", "shuffle", "noise", "cutout")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_has_its_probability(name):
    anchor = slices(200)
    for probability in (0.0, 0.3, 1.0):
        mixed = Mix(**{**dict.fromkeys(CORRUPTIONS, 0.0), name: probability}).corrupt(anchor)
        changed = (mixed != anchor).flatten(1).any(dim=1).float().mean().item()
        assert changed == pytest.approx(probability, abs=0.12 if probability == 0.3 else 0.02)
    assert torch.equal(anchor, slices(200))


def test_a_curve_of_intensities_is_straight_between_knots_and_rises():
    anchor = slices(channels=2)
    torch.manual_seed(4)
    inner = np.sort(torch.rand(5, 2, 4).double().numpy(), axis=2)
    torch.manual_seed(4)
    found = numbers(corruptions.curved(anchor))
    for n, c in np.ndindex(5, 2):
        was = numbers(anchor)[n, c]
        low, high = was.min(), was.max()
        heights = low + (high - low) * np.array([0, *inner[n, c], 1])
        expected = np.interp(was, np.linspace(low, high, 6), heights)
        assert np.allclose(found[n, c], expected, atol=1e-4)
        assert spearmanr(found[n, c].ravel(), was.ravel()).statistic == pytest.approx(1, abs=1e-4)
    assert torch.equal(corruptions.curved(torch.ones(2, 1, 8, 8)), torch.ones(2, 1, 8, 8))


def test_a_blur_is_a_gaussian_as_wide_as_the_slice_is_large():
    anchor = torch.zeros(50, 1, 128, 128)
    anchor[:, :, 64, 64] = 1
    at = np.arange(128) - 64
    sigma = [np.sqrt((row * at**2).sum()) for row in numbers(corruptions.blurred(anchor))[:, 0].sum(axis=1)]
    assert min(sigma) == pytest.approx(1, abs=0.15)
    assert max(sigma) == pytest.approx(4, abs=0.25)


@given(seed=st.integers(0, 2**32), size=st.integers(17, 40))
def test_a_shuffle_changes_places_within_small_patches_and_leaves_half_of_them(seed, size):
    anchor = torch.arange(2.0 * 2 * size * size).view(2, 2, size, size)
    torch.manual_seed(seed)
    found = corruptions.shuffled(anchor)
    row = np.arange(size) * 16 // size
    patch = row[:, None] * 16 + row
    for n in range(2):
        assert torch.equal(found[n, 1] - found[n, 0], anchor[n, 1] - anchor[n, 0])  # channels alike
        whole = 0
        for i in range(256):
            was, now = anchor[n, 0].numpy()[patch == i], found[n, 0].numpy()[patch == i]
            assert sorted(now) == list(was)
            whole += np.array_equal(was, now)
        assert whole >= 128


def test_a_shuffle_draws_every_order():
    anchor = torch.arange(4.0).view(1, 1, 2, 2).repeat(2000, 1, 16, 16)
    found = corruptions.shuffled(anchor).view(2000, 16, 2, 16, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4)
    number = Counter(map(tuple, found.int().tolist()))
    still = number.pop((0, 1, 2, 3))
    assert len(number) == 23
    assert still / len(found) == pytest.approx(0.5 + 0.5 / 24, abs=0.01)
    assert max(number.values()) < 1.2 * min(number.values())


def test_noise_has_up_to_half_the_deviation_of_a_slice():
    added = corruptions.noisy(torch.zeros(300, 1, 32, 32)).std(dim=(1, 2, 3))
    assert added.min() < 0.05
    assert 0.45 < added.max() < 0.53


def test_a_box_of_up_to_a_quarter_is_cut_out_of_all_channels():
    anchor = slices(60, channels=2) + 10
    gone = corruptions.cut_out(anchor) == 0
    assert torch.equal(gone[:, 0], gone[:, 1])
    assert 0.2 < gone.float().mean(dim=(1, 2, 3)).max() <= 0.25
    for box in gone[:, 0]:
        rows, columns = torch.nonzero(box, as_tuple=True)
        assert len(rows) == len(set(rows.tolist())) * len(set(columns.tolist()))
