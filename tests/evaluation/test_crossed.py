"""Intervals for draws and pre-trainings that are crossed, and labels saved: on numbers of which the answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssmtl_toolkit.evaluation.crossed import crossed, half_width, rectangle, saved
from ssmtl_toolkit.evaluation.statistics import paired


def by_sums_of_squares(table):
    """The interval by mean squares of the analysis of variance, in plain loops: MS of rows and columns over D S."""
    draws, seeds = len(table), len(table[0])
    grand = sum(sum(row) for row in table) / (draws * seeds)
    ms_rows = seeds * sum((sum(row) / seeds - grand) ** 2 for row in table) / (draws - 1)
    columns = [sum(row[s] for row in table) / draws for s in range(seeds)]
    ms_columns = draws * sum((column - grand) ** 2 for column in columns) / (seeds - 1)
    cells = draws * seeds
    variance = (ms_rows + ms_columns) / cells
    freedom = (ms_rows + ms_columns) ** 2 / (ms_rows**2 / (draws - 1) + ms_columns**2 / (seeds - 1))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    return [grand - half, grand + half]


def test_the_interval_is_that_of_the_analysis_of_variance():
    table = np.random.default_rng(3).normal(0.02, 0.05, (5, 3)) + np.array([[0.1], [0], [-0.05], [0.02], [0]])
    told = crossed(table)
    assert told["ci95"] == pytest.approx(by_sums_of_squares(table.tolist()))
    assert told["mean"] == pytest.approx(table.mean())
    assert (told["draws"], told["seeds"]) == (5, 3)
    assert told["up"] == sum(row.mean() > 0 for row in table)


def test_with_one_pretraining_it_is_students_t_over_draws():
    values = [0.03, -0.01, 0.05, 0.02, 0.08]
    assert crossed(np.array(values)[:, None])["ci95"] == pytest.approx(paired(values, [0.0] * 5)["ci95"])


def test_fewer_than_four_draws_give_no_interval_however_many_pretrainings():
    assert crossed(np.random.default_rng(0).normal(size=(3, 10)))["ci95"] is None


def test_nothing_done_is_no_number():
    assert crossed(np.empty((0, 3)))["mean"] is None


@pytest.mark.parametrize(
    ("draw", "seed", "rest"), [(1, 0, 0.1), (0, 1, 0.1), (0, 0, 1), (1, 1, 0.3), (1, 0.5, 0.7), (0.3, 1, 1)]
)
def test_it_covers_the_truth_at_least_as_often_as_it_says(draw, seed, rest):
    generator, times = np.random.default_rng(7), 1200
    covered = 0
    for _ in range(times):
        table = draw * generator.normal(size=(5, 1)) + seed * generator.normal(size=(1, 3))
        table = table + rest * generator.normal(size=(5, 3))
        covered += abs(table.mean()) <= half_width(table)
    assert covered / times > 0.95 - 3 * math.sqrt(0.95 * 0.05 / times)


def test_a_table_with_gaps_is_cut_to_the_draws_that_are_whole():
    assert rectangle([[1.0, 2.0], [1.0, None], [3.0, 4.0]]) == ([0, 2], [0, 1])
    assert rectangle([[1.0, None], [2.0, None]]) == ([0, 1], [0])  # one of the pre-trainings failed
    assert rectangle([[None, None]]) == ([], [])
    assert rectangle([[float("nan"), 1.0]]) == ([0], [1])


BUDGETS = [1, 2, 4, 8]
CURVE = np.array([0.4, 0.5, 0.6, 0.7])


def curves(draws=5, noise=0.0):
    return CURVE + noise * np.random.default_rng(1).normal(size=(draws, 1)) * np.ones(4)


def test_labels_saved_are_read_off_the_curve_from_scratch():
    told = saved(np.full((5, 3), 0.55), curves(), BUDGETS, at=0)
    assert told["labels"] == pytest.approx(2**1.5 - 1)  # half way between 2 and 4 patients, over the logarithm
    assert told["beyond"] == ""
    worse = saved(np.full((5, 3), 0.45), curves(), BUDGETS, at=2)
    assert worse["labels"] == pytest.approx(2**0.5 - 4)


def test_labels_saved_by_a_metric_of_which_less_is_better():
    told = saved(np.full((5, 3), -0.55), -curves(), BUDGETS, at=0, better=-1)
    assert told["labels"] == pytest.approx(2**1.5 - 1)


def test_a_score_beyond_the_curve_is_no_number_of_labels():
    above = saved(np.full((5, 3), 0.9), curves(noise=0.01), BUDGETS, at=1)
    assert (above["labels"], above["beyond"], above["ci95"]) == (6, "above", [6, None])
    below = saved(np.full((5, 3), 0.1), curves(noise=0.01), BUDGETS, at=1)
    assert (below["labels"], below["beyond"], below["ci95"]) == (-1, "below", [None, -1])


def test_a_curve_that_falls_gives_labels_of_the_sign_of_the_difference():
    dented = np.array([[0.5, 0.45, 0.6, 0.7]] * 5)
    told = saved(np.full((5, 1), 0.48), dented, BUDGETS, at=1)  # one patient scores more than two
    assert told["labels"] == pytest.approx(2 * 2 ** (0.03 / 0.15) - 2)


@given(st.integers(0, 10_000), st.floats(-0.15, 0.25), st.floats(0.001, 0.1), st.integers(0, 3), st.integers(1, 3))
def test_the_interval_of_labels_holds_0_if_and_only_if_that_of_the_difference_does(seed, gain, noise, at, seeds):
    generator = np.random.default_rng(seed)
    scratch = curves() + noise * generator.normal(size=(5, 4))
    ours = scratch[:, at : at + 1] + gain + noise * generator.normal(size=(5, seeds))
    low, high = crossed(ours - scratch[:, at : at + 1])["ci95"]
    told = saved(ours, scratch, BUDGETS, at)
    least, most = (told["ci95"][0], told["ci95"][1])
    within = (least is None or least <= 0) and (most is None or most >= 0)
    ends = (least == 0 and told["beyond"] == "above") or (most == 0 and told["beyond"] == "below")
    assert within == (low <= 0 <= high) or ends
    assert least is None or least <= told["labels"]
    assert most is None or most >= told["labels"]


def test_the_interval_of_labels_holds_the_truth():
    """The method's true score is that of 2.83 patients from scratch, with one."""
    generator, times, held = np.random.default_rng(5), 300, 0
    for _ in range(times):
        patients = 0.03 * generator.normal(size=(5, 1))  # a draw of good patients is good in both arms
        scratch = CURVE + patients + 0.02 * generator.normal(size=(5, 4))
        ours = 0.55 + patients + 0.02 * generator.normal(size=(5, 3)) + 0.02 * generator.normal(size=(1, 3))
        least, most = saved(ours, scratch, BUDGETS, at=0)["ci95"]
        held += (least is None or least <= 2**1.5 - 1) and (most is None or most >= 2**1.5 - 1)
    assert held / times > 0.95 - 3 * math.sqrt(0.95 * 0.05 / times)
