"""Checks of balancers: on three tasks whose losses differ in size and sign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import Batch, Companion
from ssmtl_toolkit.specs import BalancerSpec, TaskSpec
from ssmtl_toolkit.testing.case import Bench, check, require
from ssmtl_toolkit.testing.modules import (
    finite_scalar,
    reached,
    repeats,
    resumes,
    same_after_loading,
    some,
    trains_on_two_ranks,
    unchanged_in_eval,
    under_autocast,
    without_gradient,
)
from ssmtl_toolkit.testing.rank import importable
from ssmtl_toolkit.testing.sample import Follow, Point, Repeat, batch_for, multitask

TASKS: Sequence[TaskSpec] = (Repeat(), Point(), Point(weight=0.25))


@check(BalancerSpec, "the total is a finite scalar")
def total_is_a_scalar(bench: Bench) -> None:
    model = _made(bench)
    finite_scalar(_total(model), "the total")


@check(BalancerSpec, "gradient reaches the backbone and every task")
def gradient_reaches_all(bench: Bench) -> None:
    model = _made(bench)
    _total(model).backward()
    require(reached(model.backbone), "no gradient reaches the backbone; give a total that is computed from the losses")
    for label, task in zip(model.labels, model.tasks, strict=True):
        idle = without_gradient(task)
        require(not idle, f"no gradient reaches {some(idle)} of task {label!r}; each loss must be part of the total")
    wrong = [n for n, p in model.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    require(not wrong, f"the gradients of {some(wrong)} are not finite; guard divisions, logs and roots")


@check(BalancerSpec, "one task alone is trained too")
def one_task_is_enough(bench: Bench) -> None:
    for task in (Repeat(), Point()):
        model = _made(bench, [task])
        total = _total(model, [task])
        finite_scalar(total, f"with {task} alone the total")
        total.backward()
        require(reached(model.tasks[0]), f"with {task} alone no gradient reaches it")


@check(BalancerSpec, "a task's weight counts", applies=lambda spec: spec.weighs)
def weights_count(bench: Bench) -> None:
    sums = []
    for weight in (1.0, 0.25):
        tasks = [Repeat(), Point(weight=weight)]
        model = _made(bench, tasks)
        total = _total(model, tasks)
        total.backward()
        sums.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    require(
        not torch.allclose(sums[0], sums[1], rtol=1e-4, atol=1e-8),
        "a task's weight of 0.25 gives the gradients that 1 gives; balance weight x loss (the specs are given to "
        "build), or say `weighs = False` where the weight cancels out by design",
    )


@check(BalancerSpec, "a batch in which a task has no pairs does no harm, nor to the next one")
def no_pairs_are_no_problem(bench: Bench) -> None:
    tasks = [Repeat(), Follow()]
    model, full = _made(bench, tasks), batch_for(tasks)
    none = torch.zeros(0, dtype=torch.long)
    label = str(tasks[1])
    nothing = {label: {"next": Companion(full.anchor[:0], none, none)}}
    empty = Batch(full.anchor, nothing, full.position, full.seed)
    for batch, when in ((empty, "where a task has no pairs"), (full, "after a batch where a task had no pairs")):
        torch.manual_seed(0)
        total = model(batch)[0]
        finite_scalar(total, f"{when} the total")
        total.backward()
        wrong = [
            n for n, p in model.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())
        ]
        require(
            not wrong, f"{when} the gradients of {some(wrong)} are not finite; shared.pairs tells, means are NaN there"
        )
        model.zero_grad()
        if model.balancer.feedback != "nothing":
            told = torch.tensor([0.5, float("nan") if batch is empty else 0.5])
            model.balancer.updated(told, told * 0.9 if model.balancer.feedback == "change" else None)


@check(BalancerSpec, "a task of weight 0 does no harm")
def weight_zero_is_no_problem(bench: Bench) -> None:
    tasks = [Repeat(), Point(weight=0)]
    model = _made(bench, tasks)
    total = _total(model, tasks)
    finite_scalar(total, "with a weight of 0 the total")
    total.backward()
    require(
        all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters()),
        "with a weight of 0 gradients are not finite; guard divisions and logs",
    )
    require(not reached(model.tasks[1]), "a task of weight 0 is trained; balance weight x loss")


@check(BalancerSpec, "eval mode changes no state")
def eval_changes_nothing(bench: Bench) -> None:
    model = _made(bench)
    unchanged_in_eval(model, lambda: _total(model), gradient=True)


@check(BalancerSpec, "its state can be saved and loaded")
def state_round_trip(bench: Bench) -> None:
    model = _made(bench)
    _total(model)
    again = multitask(TASKS, balancer=_spec(bench), seed=1)
    same_after_loading(model, again, lambda m: _total(cast("MultiTask", m)))


@check(BalancerSpec, "a resumed run ends with the same bits")
def run_resumes(bench: Bench) -> None:
    resumes(bench.folder, tasks=TASKS, balancer=_spec(bench))


@check(BalancerSpec, "a resumed run that accumulates batches ends with the same bits")
def accumulating_run_resumes(bench: Bench) -> None:
    resumes(bench.folder, tasks=TASKS, balancer=_spec(bench), accumulate=2)


@check(BalancerSpec, "one seed gives the same bits twice")
def run_repeats(bench: Bench) -> None:
    repeats(bench.folder, tasks=TASKS, balancer=_spec(bench))


@check(BalancerSpec, "it trains under bf16 autocast")
def run_in_bf16(bench: Bench) -> None:
    model = _made(bench)
    under_autocast(lambda: _total(model), model)


@check(BalancerSpec, "two processes train with it and stay equal", applies=importable)
def run_on_two_ranks(bench: Bench) -> None:
    trains_on_two_ranks(bench.folder, tasks=TASKS, balancer=_spec(bench))


def _spec(bench: Bench) -> BalancerSpec:
    assert isinstance(bench.spec, BalancerSpec)
    return bench.spec


def _made(bench: Bench, tasks: Sequence[TaskSpec] = TASKS) -> MultiTask:
    return multitask(tasks, balancer=_spec(bench)).train()


def _total(model: MultiTask, tasks: Sequence[TaskSpec] = TASKS) -> Tensor:
    torch.manual_seed(0)
    total: Tensor = model(batch_for(tasks))[0]
    return total
