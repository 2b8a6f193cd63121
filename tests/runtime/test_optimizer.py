"""Optimizers and schedules by name."""

import math

import pytest
import torch

from ssmtl_toolkit.config.schedules import read_schedule
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.runtime.optimizer import check_optimizer, make_optimizer


def rates(text, steps, lr=1.0):
    """The rate of every update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = read_schedule(text).build(optimizer, steps)
    seen = []
    for step in range(steps):
        schedule.step(step)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_a_constant_rate_needs_no_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert read_schedule("constant").build(optimizer, 10) is None
    assert "initial_lr" not in optimizer.param_groups[0]


def test_cosine_falls_along_half_a_cosine():
    assert rates("cosine:warmup=0", 50) == pytest.approx([(1 + math.cos(math.pi * t / 50)) / 2 for t in range(50)])


def test_poly_is_a_power_of_what_remains():
    assert rates("poly:0.9,warmup=0", 50) == pytest.approx([(1 - t / 50) ** 0.9 for t in range(50)])


def test_the_rate_rises_from_above_0_in_the_warm_up():
    seen = rates("cosine:warmup=0.1", 100, lr=0.5)
    rising, falling = seen[:10], seen[10:]
    assert rising[0] == pytest.approx(0.5 / 11)
    assert rising == sorted(rising)
    assert max(seen) == pytest.approx(0.5, rel=0.03)
    assert falling == sorted(falling, reverse=True)


def test_a_rate_is_a_function_of_the_step_alone():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = read_schedule("cosine").build(optimizer, 40)
    schedule.step(31)
    once = optimizer.param_groups[0]["lr"]
    for step in range(32):
        schedule.step(step)
    assert optimizer.param_groups[0]["lr"] == once


def test_parts_with_other_rates_keep_their_ratio():
    parts = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-3, 1e-4)]
    optimizer = torch.optim.SGD(parts, lr=1e-3)
    schedule = read_schedule("cosine:warmup=0").build(optimizer, 10)
    schedule.step(7)
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert first / second == pytest.approx(10)


@pytest.mark.parametrize("text", ["cosine:warmup=0.5", "poly:warmup=0.5"])
def test_parts_with_other_rates_keep_their_ratio_in_the_warm_up_too(text):
    parts = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-3, 1e-5)]
    optimizer = torch.optim.SGD(parts, lr=1e-3)
    schedule, alone = read_schedule(text).build(optimizer, 20), rates(text, 20, lr=1e-3)
    for step in range(20):
        schedule.step(step)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == alone[step]
        assert first / second == pytest.approx(100)


@pytest.mark.parametrize(
    ("name", "cls"), [("adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_an_optimizer_is_made_by_its_name(name, cls):
    optimizer = make_optimizer(name, [torch.nn.Parameter(torch.zeros(2))], 3e-4, 0.1, torch.device("cpu"))
    assert type(optimizer) is cls
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (
        3e-4,
        0.1,
    )


def test_one_kernel_a_step_is_asked_for_where_there_is_one():
    parameter = [torch.nn.Parameter(torch.zeros(2))]
    assert make_optimizer("adam", parameter, 1e-3, 0, torch.device("cpu")).defaults["fused"] is True
    make_optimizer("lion", parameter, 1e-3, 0, torch.device("cpu"))  # has none


def test_an_optimizer_that_is_not_there_names_the_nearest():
    with pytest.raises(UsageError, match=r"--optimizer adamm: timm has no such optimizer; did you mean 'adam"):
        check_optimizer("adamm")
