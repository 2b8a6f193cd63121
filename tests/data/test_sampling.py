"""Which slices go together: never across scans, never wrapped, the same for the same seed."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmtl_toolkit.data.sampling import Extent, Plan, Sampler
from ssmtl_toolkit.data.seeds import step_seed

offsets = st.lists(st.integers(-8, 8).filter(bool), min_size=1, max_size=6, unique=True)
counts = st.lists(st.integers(1, 15), min_size=1, max_size=6)


def make_plan(lengths, companions):
    starts = np.cumsum([0, *lengths[:-1]])
    extents = [Extent(int(s), n, 1.0, 0) for s, n in zip(starts, lengths, strict=True)]
    return Plan(extents, [companions] * len(lengths)), extents


def scan_of(row, extents):
    return next(i for i, e in enumerate(extents) if e.start <= row < e.start + e.count)


@settings(max_examples=200)
@given(counts, offsets, st.integers(0, 2**62), st.integers(0, 1000), st.integers(1, 20))
def test_companions_are_candidates_inside_the_same_scan_and_all_that_exist_are_found(lengths, cand, seed, index, batch):
    plan, extents = make_plan(lengths, {"task": {"other": cand}})
    if not len(plan.anchors):
        assert all(not any(0 <= j + o < n for o in cand for j in range(n)) for n in lengths)
        return
    draw = Sampler(plan, batch, seed).draw(index)
    ((rows, has),) = draw.companions
    for row, i in zip(rows, has, strict=True):
        assert row - draw.anchors[i] in cand
        assert scan_of(row, extents) == scan_of(draw.anchors[i], extents)
    for i, anchor in enumerate(draw.anchors):
        extent = extents[scan_of(anchor, extents)]
        exists = any(extent.start <= anchor + o < extent.start + extent.count for o in cand)
        assert (i in has) == exists


@given(counts, st.integers(1, 7), st.integers(0, 99), st.integers(1, 3))
def test_every_anchor_is_seen_equally_often_whatever_batch_and_ranks(lengths, batch, seed, world):
    plan, _ = make_plan(lengths, {"task": {}})
    number = len(plan.anchors)
    assert number == sum(lengths)
    rounds = number * batch * world  # a common multiple
    samplers = [Sampler(plan, batch, seed, rank, world) for rank in range(world)]
    seen = Counter()
    for index in range(rounds // (batch * world)):
        for sampler in samplers:
            seen.update(sampler.draw(index).anchors.tolist())
    assert set(seen.values()) == {batch * world}


def test_a_step_is_the_same_whenever_it_is_asked_for_and_another_seed_gives_another():
    plan, _ = make_plan([30, 20], {"task": {"other": [-3, -2, 2, 3]}})
    first = Sampler(plan, 16, seed=1).draw(7)
    again = Sampler(plan, 16, seed=1)
    again.draw(0)
    assert np.array_equal(first.anchors, again.draw(7).anchors)
    assert np.array_equal(first.companions[0][0], again.draw(7).companions[0][0])
    assert not np.array_equal(first.anchors, Sampler(plan, 16, seed=2).draw(7).anchors)
    assert not np.array_equal(first.anchors, Sampler(plan, 16, seed=1).draw(8).anchors)


def test_the_numbers_of_a_seed_do_not_change_from_release_to_release():
    plan, _ = make_plan([10, 5], {"task": {"other": [-2, 2]}})
    draw = Sampler(plan, 6, seed=42).draw(3)
    assert draw.anchors.tolist() == [12, 1, 0, 14, 5, 11]
    assert draw.companions[0][0].tolist() == [10, 3, 2, 12, 7, 13]


def test_companions_are_drawn_uniformly_over_those_inside_the_scan():
    plan, _ = make_plan([21], {"task": {"other": [-4, -3, 3, 4]}})
    sampler, middle, edge = Sampler(plan, 21, seed=0), Counter(), Counter()
    for index in range(2000):
        draw = sampler.draw(index)
        ((rows, has),) = draw.companions
        for row, i in zip(rows, has, strict=True):
            if draw.anchors[i] == 10:
                middle[row - 10] += 1
            if draw.anchors[i] == 0:
                edge[row] += 1
    assert set(middle) == {-4, -3, 3, 4}
    assert set(edge) == {3, 4}
    for counts_, kinds in ((middle, 4), (edge, 2)):
        total = sum(counts_.values())
        chi2 = sum((n - total / kinds) ** 2 / (total / kinds) for n in counts_.values())
        assert chi2 < 16  # p < 0.002 for 3 degrees of freedom


def test_tasks_that_want_the_same_slices_share_them():
    plan, _ = make_plan([30], {"a": {"x": [2]}, "b": {"y": [2]}, "c": {"z": [-2]}})
    assert plan.columns["a"]["x"] == plan.columns["b"]["y"] != plan.columns["c"]["z"]
    assert len(Sampler(plan, 8, 0).draw(0).companions) == 2


def test_a_scan_too_short_for_any_pair_is_idle_and_one_shorter_than_2t_plus_1_still_trains():
    plan, _ = make_plan([3, 4, 20], {"prev": {"target": [-3]}, "next": {"target": [3]}})
    assert plan.idle == [0]
    assert {3, 6} <= set(plan.anchors.tolist())
    assert not {4, 5} & set(plan.anchors.tolist())
    assert not set(range(3)) & set(plan.anchors.tolist())


def test_ranks_see_different_anchors_of_one_order():
    plan, _ = make_plan([64], {"task": {}})
    parts = [Sampler(plan, 16, 5, rank, 4).draw(0).anchors.tolist() for rank in range(4)]
    together = [row for part in parts for row in part]
    assert sorted(together) == list(range(64))
    whole = Sampler(plan, 64, 5).draw(0).anchors.tolist()
    assert together == whole


def test_step_seeds_differ():
    assert len({step_seed(1, s, r) for s in range(100) for r in range(4)}) == 400
