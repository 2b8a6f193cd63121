"""`weight=auto`: factors against gradients by hand, with every balancer, accumulated, in bf16, resumed, on the way."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import ssmtl_toolkit
from helpers import two_ranks
from helpers.small import SMALL
from helpers.two_ranks import NEXT, PREV, batch_of, model_of, updater_of
from ssmtl_toolkit.engine.auto_weight import MEASURED
from ssmtl_toolkit.engine.step import Companion
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.specs import TaskSpec

SIAM = "slice_siam:t=2,weight=auto"
TASKS = (PREV, NEXT, SIAM)  # of weights 1, 0.5 and auto
BALANCERS = [balancer for balancer in two_ranks.BALANCERS if balancer != "famo"]


def cpu(**options):
    return Fabric(accelerator="cpu", devices=1, **options)


def norms_by_hand(model, batch):
    """Of each task's gradient at the backbone, by a backward pass for each, in numpy's double precision."""
    model, found = copy.deepcopy(model), {}
    for label, output in model(batch)[1].items():
        model.zero_grad()
        output.loss.backward(retain_graph=True)
        grads = [p.grad.double().numpy() for p in model.backbone.parameters() if p.grad is not None]
        found[label] = np.sqrt(sum(np.sum(grad**2) for grad in grads))
    return found


def factor(update, label=SIAM):
    return update.extra_metrics()[f"{label}/auto_weight"]


def test_the_factor_makes_the_norm_that_of_the_mean_of_the_weighted_others():
    update = updater_of(cpu(), "fixed", TASKS, accumulate=1)
    by_hand = norms_by_hand(update.model, batch_of(0, TASKS))
    update(0)
    told = update.extra_metrics()
    goal = (by_hand[PREV] + 0.5 * by_hand[NEXT]) / 2
    assert factor(update) == pytest.approx(goal / by_hand[SIAM], rel=1e-4)
    assert told[f"{SIAM}/gradient"] == pytest.approx(
        (told[f"{PREV}/gradient"] + told[f"{NEXT}/gradient"]) / 2, rel=1e-4
    )
    assert f"{PREV}/auto_weight" not in told


def test_norms_are_averaged_geometrically_over_the_steps_that_are_measured_and_then_stay():
    update, norms, seen = updater_of(cpu(), "fixed", TASKS, accumulate=1), {}, []
    for step in range(60):
        if step + 1 in MEASURED:
            measured = norms_by_hand(update.model, batch_of(step, TASKS))
            norms = {label: np.sqrt(norms.get(label, norm) * norm) for label, norm in measured.items()}
        update(step)
        seen.append(factor(update))
        assert seen[-1] == pytest.approx((norms[PREV] + 0.5 * norms[NEXT]) / 2 / norms[SIAM], rel=1e-3), step
    assert len(set(seen)) == len(MEASURED)
    assert max(MEASURED) == 50


def test_where_every_weight_is_auto_each_norm_becomes_their_mean():
    tasks = ("reconstruct_prev:t=2,weight=auto", "reconstruct_next:t=2,weight=auto", SIAM)
    update = updater_of(cpu(), "fixed", tasks, accumulate=1)
    by_hand = norms_by_hand(update.model, batch_of(0, tasks))
    update(0)
    for label in tasks:
        assert factor(update, label) == pytest.approx(np.mean(list(by_hand.values())) / by_hand[label], rel=1e-4)


def test_a_task_of_weight_0_is_no_reference():
    tasks = (PREV, "reconstruct_next:t=2,weight=0.0", SIAM)
    update = updater_of(cpu(), "fixed", tasks, accumulate=1)
    by_hand = norms_by_hand(update.model, batch_of(0, tasks))
    update(0)
    assert factor(update) == pytest.approx(by_hand[PREV] / by_hand[SIAM], rel=1e-4)
    alone = updater_of(cpu(), "fixed", ("reconstruct_next:t=2,weight=0.0", SIAM), accumulate=1)
    alone(0)
    assert factor(alone) == 1


@pytest.mark.parametrize("balancer", BALANCERS)
def test_under_every_balancer_it_is_a_given_weight_of_that_value(balancer):
    """The weights that an update ends with, of which the first batch has set the factor."""
    update = updater_of(cpu(), balancer, TASKS)
    update(0)
    given = updater_of(cpu(), balancer, (PREV, NEXT, f"slice_siam:t=2,weight={factor(update)!r}"))
    given(0)
    assert 1 != factor(update) != 1 / 3
    for found, wanted in zip(update.model.parameters(), given.model.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)
    weights = [[v for k, v in one.extra_metrics().items() if k.endswith("/weight")] for one in (update, given)]
    assert weights[0] == pytest.approx(weights[1], rel=1e-3)


def test_under_famo_weights_cancel_out_and_nothing_is_measured():
    update = updater_of(cpu(), "famo", TASKS)
    update(0)
    assert update.model.auto is None
    assert not [key for key in update.extra_metrics() if key.endswith("auto_weight")]


def test_without_auto_there_is_nothing_more_in_the_state():
    assert not [name for name in model_of("fixed").state_dict() if "auto" in name]
    assert {"auto.norms", "auto.factors"} <= set(model_of("fixed", TASKS).state_dict())


def test_a_task_without_pairs_keeps_its_factor_until_it_has_some():
    none = torch.zeros(0, dtype=torch.long)

    def sometimes(index, tasks, part, first):
        batch = batch_of(index, tasks, part=part, first=first)
        if index == 0:
            batch.companions[SIAM]["positive"] = Companion(batch.anchor[:0], none, none)
        return batch

    update = updater_of(cpu(), "uncertainty", TASKS, make=sometimes, accumulate=1)
    update(0)
    assert factor(update) == 1
    by_hand = norms_by_hand(update.model, batch_of(1, TASKS))
    update(1)
    assert update.model.auto.norms[2] == pytest.approx(by_hand[SIAM], rel=1e-4)
    assert factor(update) != 1
    assert all(value.isfinite().all() for value in update.model.state_dict().values())


def test_under_bf16_autocast_factors_are_float32_and_near():
    exact, half = updater_of(cpu(), "fixed", TASKS), updater_of(cpu(precision="bf16-mixed"), "fixed", TASKS)
    for update in (exact, half):
        update(0)
    assert half.model.auto.factors.dtype == torch.float32
    assert factor(half) == pytest.approx(factor(exact), rel=0.05)
    assert all(p.isfinite().all() for p in half.model.parameters())


def pretrain(scans, out, **options):
    small = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 4, "log_every": 1, "lr": 1e-4}
    tasks = ["reconstruct_prev:t=1", "slice_siam:t=1,weight=auto", "contrast:weight=auto"]
    options = {**small, "tasks": tasks, "accumulate": 2, "data": str(scans), "cache": out.parent / "cache", **options}
    return ssmtl_toolkit.pretrain(out=out, **options).folder


def state(folder):
    return checkpoint.newest(folder / "checkpoints", warn=pytest.fail).tensors


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("balancer", ["fixed", "uncertainty", "dwa:window=1"])
def test_a_run_resumed_within_the_first_steps_ends_with_the_same_bits_and_log(scans, tmp_path, balancer):
    whole = pretrain(scans, tmp_path / "whole", balancer=balancer, steps=5)
    pretrain(scans, tmp_path / "cut", balancer=balancer, steps=3)
    cut = pretrain(scans, tmp_path / "cut", balancer=balancer, steps=5, resume=True)
    one, other = state(whole), state(cut)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert records(whole) == records(cut)
    factors = [record["contrast:weight=auto/auto_weight"] for record in records(whole)]
    assert [a == b for a, b in pairwise(factors)] == [False, True, False, True]  # 1, 2 and 4


@pytest.mark.slow
def test_losses_in_the_log_and_the_verdicts_are_those_of_the_task_itself(scans, tmp_path):
    runs = []
    for weight in ("auto", "0.25"):
        tasks = ["reconstruct_prev:t=1", f"slice_siam:t=1,weight={weight}"]
        runs.append(pretrain(scans, tmp_path / weight, tasks=tasks, steps=2, held_out=1))
    (auto, given), labels = map(records, runs), [f"slice_siam:t=1,weight={weight}" for weight in ("auto", "0.25")]
    assert auto[0][f"{labels[0]}/loss"] == given[0][f"{labels[1]}/loss"]
    tasks = json.loads((runs[0] / "summary.json").read_text())["tasks"]
    assert -1 <= tasks[labels[0]]["held_out"]["loss"] <= 1
    assert tasks[labels[0]]["auto_weight"] == auto[-1][f"{labels[0]}/auto_weight"]
    assert "auto_weight" not in tasks["reconstruct_prev:t=1"]


FLAGS = ("--size", 32, "--backbone", SMALL, "--steps", 2, "--task", "reconstruct_prev:t=1", "--task")


def test_the_end_of_a_run_shows_the_weight_and_famo_says_that_it_has_none(ssmtl, scans):
    done = ssmtl("run", "--data", scans, *FLAGS, "slice_siam:t=1,weight=auto", "--out", "a")
    assert done.returncode == 0, done.stderr
    assert "auto_weight " in done.stderr
    assert "cancel out" not in done.stderr
    done = ssmtl("run", "--data", scans, *FLAGS, "slice_siam:t=1,weight=auto", "--balancer", "famo", "--out", "b")
    assert done.returncode == 0, done.stderr
    assert "under balancer 'famo' weights cancel out; weight=auto changes nothing" in done.stderr
    assert "auto_weight " not in done.stderr


def test_continuing_with_pretext_tasks_refuses_it(ssmtl, labelled):
    semi = 'pretext:tasks=["slice_siam:t=1,weight=auto"]'
    done = ssmtl("finetune", "--data", labelled, "--backbone", SMALL, "--semi", semi, "--out", "a")
    assert done.returncode == 2
    assert "task 'slice_siam:t=1,weight=auto': weight=auto is measured by ssmtl run only; give a number" in done.stderr


def test_the_text_the_schema_and_the_options_know_it(ssmtl):
    task = registry().resolve(TaskSpec, "slice_siam:weight=auto")
    assert (task.weight, task.given_weight, str(task)) == ("auto", 1.0, "slice_siam:weight=auto")
    assert registry().resolve(TaskSpec, "slice_siam:weight=2").given_weight == 2.0
    for name in ("slice_siam", "contrast"):
        assert "number or auto" in ssmtl("plugins", "show", name).stdout
    with pytest.raises(UsageError, match="0, or auto, got 'automatic'"):
        registry().resolve(TaskSpec, "slice_siam:weight=automatic")
