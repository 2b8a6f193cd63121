"""Kendall's tau-b of two orders and its interval, beside those of scipy and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from ssmtl_toolkit.evaluation.agreement import agreement, interval, tau_b

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12)


@given(PAIRS)
def test_tau_is_that_of_scipy_with_ties(pairs):
    one, other = zip(*pairs, strict=True)
    expected = kendalltau(one, other).statistic
    found = tau_b(one, other)
    assert (found is None and math.isnan(expected)) or found == pytest.approx(expected)


def test_the_interval_of_seven_is_that_computed_by_hand():
    # of 21 pairs 17 are in order: tau = (17 - 4) / 21; atanh 0.7258, standard error sqrt(0.437 / 3) = 0.3817
    scores, gains = [1, 2, 3, 4, 5, 6, 7], [2, 1, 4, 5, 3, 7, 6]
    swapped = sum(gains[i] > gains[j] for i in range(7) for j in range(i + 1, 7))
    assert swapped == 4
    found = agreement(scores, gains)
    assert found["tau"] == pytest.approx(13 / 21)
    middle = 0.5 * math.log((1 + 13 / 21) / (1 - 13 / 21))
    expected = [math.tanh(middle + side * 1.96 * 0.38166) for side in (-1, 1)]
    assert found["ci95"] == pytest.approx(expected, abs=1e-4)
    assert found["n"] == 7


def test_the_same_order_is_not_taken_for_certain():
    low, high = interval(1.0, 7)
    assert 0.7 < low < high < 1
    assert interval(-1.0, 7) == pytest.approx([-high, -low])


def test_few_mixes_give_no_interval_and_none_no_tau():
    assert agreement([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])["ci95"] is None
    assert agreement([1, 1, 1], [1, 2, 3])["tau"] is None
    assert agreement([1], [1])["tau"] is None


def test_mixes_of_which_a_score_or_the_gain_is_missing_do_not_count():
    found = agreement([1, None, 2, 3], [1, 5, 2, None])
    assert (found["tau"], found["n"]) == (1, 2)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rho, times, held = 0.6, 300, 0
    for _ in range(times):
        one, noise = rng.normal(size=(2, 7))
        low, high = interval(tau_b(one, rho * one + math.sqrt(1 - rho**2) * noise), 7)
        held += low <= 2 / math.pi * math.asin(rho) <= high
    assert 0.91 < held / times < 0.99
