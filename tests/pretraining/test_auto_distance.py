"""`t=auto`: the distance that suits the scans is chosen, written down, and the same when a run is resumed."""

import json
import tomllib
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

import ssmtl_toolkit as ssmtl_package
from helpers.small import SMALL
from ssmtl_toolkit.distance import slices_of
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.inspection.alike import StackOfSlices, Stacks, products_of
from ssmtl_toolkit.inspection.distance import ALIKE, ENOUGH, FARTHEST_MM, proposed_distance
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import TaskSpec

AUTO = ("reconstruct_prev:t=auto", "reconstruct_next:t=auto")


def drifting(seed, count=30, memory=0.8, side=24):
    """Slices each of which keeps this share of the one before it: correlation at t is memory ** t."""
    rng = np.random.default_rng(seed)
    slices = [rng.normal(0, 1, (side, side))]
    for _ in range(count - 1):
        slices.append(memory * slices[-1] + np.sqrt(1 - memory**2) * rng.normal(0, 1, (side, side)))
    return np.stack(slices).astype(np.float32)


def stacks_of(memory, count=30, spacing=1.0, scans=3):
    every = [drifting(seed, count, memory) for seed in range(scans)]
    return Stacks([StackOfSlices(count, spacing, products_of(one[:, None], spacing)) for one in every])


@pytest.fixture
def drifts(tmp_path):
    """A folder of 6 scans whose slices have correlations 0.8, 0.64, 0.51, 0.41, 0.33 … 1 to 5 slices apart."""
    for i in range(6):
        volume = np.moveaxis(drifting(i), 0, 2)
        nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / f"p{i}.nii.gz")
    return tmp_path


@pytest.mark.parametrize("memory", [0.5, 0.7, 0.8, 0.9])
def test_correlation_limits_the_distance_as_computed_by_hand(memory):
    expected = max(1, int(np.log(ALIKE) / np.log(memory)))
    chosen = proposed_distance(stacks_of(memory, count=60))
    assert abs(chosen.t - expected) <= 1  # estimated from noise
    assert "little in common" in chosen.why


def test_short_stacks_and_thick_slices_limit_it_too():
    short = proposed_distance(stacks_of(0.99, count=9))
    assert short.t == 3  # 6 of 9 slices have a partner 3 slices away, 5 of 9 one 4 slices away
    assert "of the slices have a partner" in short.why
    thick = proposed_distance(stacks_of(0.99, spacing=8.0))
    assert thick.t == 2
    assert "24 mm apart" in thick.why


def test_scans_of_different_spacings_get_a_length_in_mm():
    parts = [stacks_of(0.99, spacing=spacing, scans=2).stacks for spacing in (1.0, 1.0, 4.0)]
    chosen = proposed_distance(Stacks([stack for part in parts for stack in part]))
    assert chosen.t.endswith("mm")
    assert float(chosen.t.removesuffix("mm")) <= FARTHEST_MM


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.3, 12)), min_size=1, max_size=8))
def test_without_voxels_the_choice_keeps_its_own_rules(shapes):
    stacks = Stacks([StackOfSlices(count, spacing) for count, spacing in shapes])
    t = proposed_distance(stacks).t
    smallest = 1 if stacks.even else f"{round(stacks.spacing, 1):g}mm"
    if t not in (1, smallest):
        assert stacks.share(t) >= ENOUGH
        assert max(stacks.apart(t)) <= FARTHEST_MM * 1.001
    counted = sum(max(0, count - slices_of(t, s)) for count, s in shapes if slices_of(t, s))
    assert stacks.share(t) == pytest.approx(counted / sum(count for count, _ in shapes))


def test_a_run_chooses_it_and_writes_it_down_everywhere(ssmtl, drifts):
    tasks = [word for task in AUTO for word in ("--task", task)]
    short = ("--steps", 2, "--size", 24, "--backbone", SMALL, "--held-out", 0)
    done = ssmtl("run", "--data", drifts, *short, *tasks, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "auto      reconstruct_prev: t=4: at t=5 pairs have little in common" in done.stderr
    written = tomllib.loads((drifts / "run" / "run.toml").read_text())["tasks"]
    assert [text.split(",")[1] for text in written] == ["t=4", "t=4"]
    assert set(json.loads((drifts / "run" / "summary.json").read_text())["tasks"]) == {
        "reconstruct_prev:t=4",
        "reconstruct_next:t=4",
    }
    with safe_open(drifts / "run" / "backbone.safetensors", "np") as file:
        assert "t=auto" not in str(file.metadata())
        assert "t=4" in str(file.metadata())
    plain = ssmtl("run", "--config", "run/run.toml", "--out", "again")
    assert plain.returncode == 0, plain.stderr
    first, second = ((drifts / name / "backbone.safetensors").read_bytes() for name in ("run", "again"))
    assert first == second


def test_data_info_proposes_what_auto_takes(drifts):
    info = ssmtl_package.data_info(drifts, deep=True, size=24, timed=False)
    assert info.proposals.t.t == 4
    assert "reconstruct_prev:t=4" in info.proposals.arguments


def test_a_run_with_auto_can_be_resumed_with_the_same_options(drifts, tmp_path):
    options = {"data": drifts, "backbone": SMALL, "size": 24, "tasks": AUTO, "held_out": 0, "normalise": "data"}
    how = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    ssmtl_package.pretrain(**options, steps=1, **how)
    run = ssmtl_package.pretrain(**options, steps=2, resume=True, **how)
    assert run.summary["steps"] == 2
    with pytest.raises(UsageError, match="cannot be resumed with other options"):
        ssmtl_package.pretrain(**{**options, "tasks": "reconstruct_prev:t=3"}, steps=3, resume=True, **how)


def test_two_tasks_that_become_one_are_refused(drifts, tmp_path):
    tasks = ["reconstruct_prev:t=auto", "reconstruct_prev:t=4"]
    with pytest.raises(UsageError, match="'reconstruct_prev:t=4' is given twice"):
        ssmtl_package.pretrain(
            data=drifts, backbone=SMALL, size=24, steps=1, tasks=tasks, held_out=0, out=tmp_path / "run"
        )


def test_each_task_gets_a_distance_with_enough_pairs_of_its_own(tmp_path):
    for i in range(3):
        volume = np.moveaxis(drifting(i, count=9, memory=0.99), 0, 2)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"p{i}.nii.gz")
    tasks = ["reconstruct_prev:t=auto", "slice_siam:t=auto", "slice_position:t=auto"]
    run = ssmtl_package.pretrain(
        data=tmp_path, backbone=SMALL, size=24, steps=1, tasks=tasks, out=tmp_path / "run", cache=tmp_path / "cache"
    )
    assert all(pairs["share"] >= ENOUGH for pairs in run.summary["pairs"].values())
    assert "reconstruct_prev:t=3" in run.summary["tasks"]


def test_a_task_may_set_other_options_by_the_data(drifts, tmp_path):
    class Counting(registry().find(TaskSpec, "reconstruct_next")):
        """Takes half of the distance that suits."""

        name: ClassVar[str] = "counting"

        def fitted(self, slices):
            return self.model_copy(update={"t": max(1, slices.distance(self, "t") // 2)})

    run = ssmtl_package.pretrain(
        data=drifts, backbone=SMALL, size=24, steps=1, tasks=Counting(), held_out=0, out=tmp_path / "run"
    )
    assert list(run.summary["tasks"]) == ["counting:t=2"]


def test_where_nothing_is_chosen_by_data_auto_is_refused(ssmtl, labelled):
    done = ssmtl("finetune", "--data", labelled, "--semi", 'pretext:tasks=["reconstruct_prev:t=auto"]', "--steps", 1)
    assert done.returncode == 2
    assert "t=auto is chosen by ssmtl run only" in done.stderr
    with pytest.raises(UsageError, match="here give a number"):
        registry().resolve(TaskSpec, "reconstruct_prev:t=auto").companions(2.0)
