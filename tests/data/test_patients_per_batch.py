"""Batches of a fixed number of patients: who is in them, how often every slice is seen, and what they depend on."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small import SMALL, write_scan
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.sampling import Extent, Plan, Sampler, batch_shares
from ssmtl_toolkit.errors import UsageError


def plan_of(scans, companions=None):
    """`scans`: the patient and the number of slices of each."""
    starts = np.cumsum([0, *(count for _, count in scans[:-1])])
    extents = [Extent(int(start), count, 1.0, who) for start, (who, count) in zip(starts, scans, strict=True)]
    return Plan(extents, [{"alone": {}, "pair": companions} if companions else {"alone": {}}] * len(scans))


scan_lists = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 20)), min_size=1, max_size=14)
seeds = st.integers(0, 2**62)


@st.composite
def cases(draw):
    scans = draw(scan_lists)
    patients = draw(st.integers(1, len({who for who, _ in scans})))
    return scans, patients, draw(st.integers(patients, 4 * patients + 3)), draw(seeds)


def counts_of(scans):
    counts = Counter()
    for who, number in scans:
        counts[who] += number
    return counts


@settings(max_examples=60)
@given(cases(), st.integers(0, 700))
def test_every_batch_has_so_many_patients_with_equally_many_slices(case, index):
    scans, patients, batch, seed = case
    plan = plan_of(scans)
    anchors = Sampler(plan, batch, seed, patients=patients).draw(index).anchors
    numbers = Counter(plan.places(anchors).patient.tolist())
    assert len(anchors) == batch
    assert len(numbers) == patients
    assert set(numbers.values()) <= {batch // patients, -(-batch // patients)}


@settings(max_examples=60)
@given(cases(), st.integers(1, 200))
def test_every_slice_is_seen_about_equally_often(case, batches):
    """Slices of a patient to within one; patients to within two shares of a batch, and a slice; at any time."""
    scans, patients, batch, seed = case
    plan, counts = plan_of(scans), counts_of(scans)
    sampler, seen = Sampler(plan, batch, seed, patients=patients), Counter()
    for index in range(batches):
        seen.update(sampler.draw(index).anchors.tolist())
    whose = plan.places(plan.anchors).patient
    total = {who: sum(seen[row] for row in plan.anchors[whose == who].tolist()) for who in counts}
    for who in counts:
        own = [seen[row] for row in plan.anchors[whose == who].tolist()]
        assert max(own) - min(own) <= 1
    number, share = sum(counts.values()), batch / patients
    most = 2 * share + 1
    if max(counts.values()) * patients <= number:
        assert all(abs(total[who] - batches * batch * counts[who] / number) < most for who in counts)
    else:
        largest = max(counts, key=counts.__getitem__)
        assert abs(total[largest] - batches * share) < most  # it is in every batch


def test_after_as_many_batches_as_there_are_slices_equal_patients_are_equally_often_seen():
    plan, seen = plan_of([(who, 6) for who in range(5)]), Counter()
    sampler = Sampler(plan, 4, 3, patients=2)
    for index in range(3000):
        seen.update(plan.places(sampler.draw(index).anchors).patient.tolist())
    assert max(seen.values()) - min(seen.values()) < 2 * 2 * 2
    assert sum(seen.values()) == 12000


def test_a_patient_with_too_many_slices_is_in_every_batch_and_the_others_by_their_slices():
    plan, seen = plan_of([(0, 50), (1, 4), (2, 8), (3, 12)]), Counter()
    sampler = Sampler(plan, 6, 0, patients=3)
    for index in range(600):
        seen.update(plan.places(sampler.draw(index).anchors).patient.tolist())
    rest = 600 * 4  # in two of three places are patients 1 to 3, and 3 has half of their slices
    assert [seen[who] for who in range(4)] == [1200, *(pytest.approx(rest * n / 24, abs=4) for n in (4, 8)), 1200]
    shares, whole = batch_shares(np.array([50, 4, 8, 12]), 3)
    assert (shares / whole).tolist() == pytest.approx([1, 1 / 3, 2 / 3, 1])


@settings(max_examples=40)
@given(cases(), st.lists(st.integers(0, 600), min_size=1, max_size=3))
def test_a_batch_is_the_same_whenever_it_is_asked_for(case, indices):
    scans, patients, batch, seed = case
    plan = plan_of(scans, {"other": (-1, 1)})
    one = Sampler(plan, batch, seed, patients=patients)
    for index in indices:
        drawn, again = one.draw(index), Sampler(plan, batch, seed, patients=patients).draw(index)
        assert np.array_equal(drawn.anchors, again.anchors)
        for companion, other in zip(drawn.companions, again.companions, strict=True):
            assert all(np.array_equal(*pair) for pair in zip(companion, other, strict=True))


@settings(max_examples=40)
@given(cases(), st.integers(1, 4), st.integers(0, 60))
def test_ranks_take_turns_in_the_batches_of_one(case, world, index):
    scans, patients, batch, seed = case
    plan = plan_of(scans, {"other": (-2, 2)})
    alone = Sampler(plan, batch, seed, patients=patients)
    for rank in range(world):
        drawn, same = Sampler(plan, batch, seed, rank, world, patients).draw(index), alone.draw(index * world + rank)
        assert np.array_equal(drawn.anchors, same.anchors)
        for companion, other in zip(drawn.companions, same.companions, strict=True):
            assert all(np.array_equal(*pair) for pair in zip(companion, other, strict=True))


def test_slices_come_in_another_order_in_each_epoch_and_with_each_seed_and_patients_meet_others():
    plan = plan_of([(who, 20) for who in range(8)])
    sampler = Sampler(plan, 8, 5, patients=4)
    epochs = [[sampler.draw(20 * epoch + index).anchors for index in range(20)] for epoch in range(2)]
    orders = [[row for anchors in epoch for row in anchors.tolist() if row < 20] for epoch in epochs]
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])
    own = [[row % 20 for anchors in epochs[0] for row in anchors if row // 20 == who] for who in range(2)]
    assert own[0][:15] != own[1][:15]
    assert not np.array_equal(sampler.draw(3).anchors, Sampler(plan, 8, 6, patients=4).draw(3).anchors)
    groups = [frozenset(plan.places(sampler.draw(index).anchors).patient.tolist()) for index in range(300)]
    pairs = Counter((a, b) for group in groups for a in group for b in group if a < b)
    assert len(set(groups)) > 40  # of 70
    assert min(pairs.values()) > 0.4 * max(pairs.values())


def test_the_slices_of_one_patient_do_not_lie_together_in_a_batch():
    plan = plan_of([(0, 30), (1, 30)])
    halves = [plan.places(Sampler(plan, 16, 1, patients=2).draw(index).anchors).patient[:8] for index in range(20)]
    assert any(0 < half.sum() < 8 for half in halves)


def test_the_numbers_of_a_seed_do_not_change_from_release_to_release():
    plan = plan_of([(0, 6), (1, 4), (2, 5), (0, 3)])
    assert Sampler(plan, 5, 42, patients=2).draw(300).anchors.tolist() == [10, 12, 0, 5, 4]


def test_two_scans_of_a_patient_are_one_patient_and_slices_that_are_no_anchors_do_not_count():
    extents = [Extent(0, 4, 1.0, 3), Extent(4, 2, 1.0, 5), Extent(6, 6, 1.0, 3)]
    plan = Plan(extents, [{"task": {"other": (3,)}}] * 3)
    assert [rows.tolist() for rows in plan.by_patient()] == [[0, 6, 7, 8]]


def test_more_patients_than_slices_in_a_batch_are_refused_and_blocks_of_scans_as_well():
    with pytest.raises(UsageError, match=r"--read-order blocks: .* omit --patients-per-batch"):
        RunConfig.of({"read_order": "blocks", "patients_per_batch": 2}).resolve()
    with pytest.raises(UsageError, match=r"--patients-per-batch 9: a batch has only 8 slices; choose at most 8"):
        RunConfig.of({"patients_per_batch": 9, "batch_size": 8}).resolve()


FLAGS = ("--size", 32, "--backbone", SMALL, "--steps", 4, "--log-every", 1, "--held-out", 0, "--batch-size", 6)


def test_more_patients_than_there_are_are_refused_naming_both_numbers(ssmtl, scans):
    done = ssmtl("run", "--data", scans, *FLAGS, "--patients-per-batch", 5, "--out", "a")
    assert done.returncode == 2
    assert "--patients-per-batch 5: the scans to train on are of 4 patients; choose 4 or fewer" in done.stderr


def test_it_says_whose_slices_are_rarer_or_come_twice_in_a_batch(ssmtl, scans):
    write_scan(scans / "p9.nii.gz", slices=60, seed=9)
    write_scan(scans / "p8.nii.gz", slices=6, seed=8)  # the first and the last have a partner 5 slices away
    done = ssmtl("run", "--data", scans, *FLAGS, "--patients-per-batch", 2, "--out", "a")
    assert done.returncode == 0, done.stderr
    assert "1 of 6 patients have more slices than their share of all batches" in done.stderr
    assert "(down to 83 %)" in done.stderr  # 60 slices, in every batch as the other 50
    assert "1 of 6 patients have fewer slices than a batch takes of each" in done.stderr
    assert "batch 6 of 2 patients" in done.stderr


def test_a_resumed_run_ends_with_the_same_bits(ssmtl, scans, tmp_path):
    flags = ("--data", scans, *FLAGS, "--patients-per-batch", 3)
    assert ssmtl("run", *flags, "--out", "whole").returncode == 0
    short = [2 if flag == 4 else flag for flag in flags]
    assert ssmtl("run", *short, "--out", "cut").returncode == 0
    assert ssmtl("run", "--resume", "cut", "--steps", 4).returncode == 0
    for name in ("metrics.jsonl", "backbone.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert "patients_per_batch = 3" in (tmp_path / "whole" / "run.toml").read_text()
