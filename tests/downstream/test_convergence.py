"""A fine-tuning says whether it was long enough."""

import json

import numpy as np
import pytest

from helpers.small import SMALL
from ssmtl_toolkit.downstream.convergence import FEW, Convergence, remark


def test_a_loss_that_halves_in_the_second_half_has_not_converged():
    losses = np.concatenate([np.linspace(3, 1, 40), np.full(10, 1.0), np.linspace(1, 0.5, 40), np.full(10, 0.5)])
    told = Convergence.of(losses.tolist())
    assert told.fall == pytest.approx(0.5)
    assert told.left == pytest.approx(0.5 / losses[:10].mean())
    said = remark([told, Convergence(0.1, 0.1)], 600)
    assert "not converged: in 1 of 2 trainings the loss still fell by 50 % in the second half" in said
    assert "600 --steps" in said


def test_a_loss_that_is_flat_but_noisy_has_converged():
    noise = 0.02 * np.random.default_rng(0).normal(size=200)
    told = Convergence.of((0.2 + 2 * np.exp(-np.arange(200) / 20) + noise).tolist())
    assert told.reached
    assert remark([told], 600) == ""


def test_a_loss_that_has_hardly_begun_to_fall_has_not_converged():
    told = Convergence.of(np.linspace(2, 1.5, 60).tolist())
    assert told.fall < 0.3
    assert not told.reached


def test_too_few_losses_tell_nothing():
    assert Convergence.of([1.0] * (FEW - 1)) is None
    assert remark([None], 3) == ""


@pytest.mark.slow
def test_a_training_that_is_too_short_is_told_so(labelled, tmp_path, ssmtl):
    options = ["--train-scans", 2, "--test-scans", 2, "--slices-per-scan", 2, "--no-surface", "--batch-size", 4]
    short = ["--steps", 40, "--log-every", 1, "--lr", 0.003, "--recipe", "paper", "--backbone", SMALL, "--size", 32]
    done = ssmtl("finetune", "--data", labelled, *options, *short, "--out", tmp_path / "short")
    summary = json.loads((tmp_path / "short" / "summary.json").read_text())
    assert summary["training"]["scratch"][0]["convergence"]["left"] < 1
    assert "note: scratch: not converged: its loss still fell by" in done.stderr
