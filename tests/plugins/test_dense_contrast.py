"""Contrast of points: the loss against an independent computation, which map is read, and which points are drawn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.small import SMALL
from ssmtl_contrast import DenseContrast
from ssmtl_contrast.dense import drawn
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, Step
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec
from ssmtl_toolkit.testing import cases


def slow_loss(one, other, temperature):
    """The formula, one point after the other; `one` and `other` (P, D) are the same points in two views."""
    every = np.concatenate([one, other])
    unit = every / np.linalg.norm(every, axis=1, keepdims=True)
    losses = []
    for i, z in enumerate(unit):
        same = (i + len(one)) % len(every)
        total = sum(math.exp(z @ unit[a] / temperature) for a in range(len(every)) if a != i)
        losses.append(math.log(total) - z @ unit[same] / temperature)
    return np.mean(losses)


def run(spec, anchor, other):
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(1).eval()
    module = spec.build(backbone).eval()
    torch.manual_seed(7)
    step = Step(Batch(anchor, {}, view=lambda: None, recoloured=lambda: other), SharedEncoder(backbone), {})
    return module(step), module, backbone


@pytest.mark.parametrize(("level", "points", "side"), [(1, 9, 4), (2, 9, 8), (2, 500, 8), (5, 9, 32)])
def test_the_loss_is_the_formula_at_points_of_the_chosen_map(level, points, side):
    torch.manual_seed(1)
    anchor, other = torch.randn(2, 3, 1, 32, 32)
    output, module, backbone = run(DenseContrast(level=level, points=points, temperature=0.2), anchor, other)
    maps = []
    backbone.decoder.blocks[level - 1].register_forward_hook(lambda _, given, made: maps.append(made))
    for image in (anchor, other):
        backbone.decoder(backbone.encoder(image))
    assert maps[0].shape[2:] == (side, side)
    torch.manual_seed(7)
    places = drawn(3, side * side, points).tolist()
    features = [
        torch.stack([one[n, :, place // side, place % side] for n, row in enumerate(places) for place in row])
        for one in maps
    ]
    projected = [module.project(one).detach().double().numpy() for one in features]
    assert output.loss.item() == pytest.approx(slow_loss(*projected, 0.2), rel=1e-4)
    assert output.metrics["chance"].item() == pytest.approx(math.log(2 * 3 * min(points, side * side) - 1))
    assert output.pairs == 3


def test_features_that_are_all_alike_cost_what_a_guess_costs():
    image = torch.zeros(4, 1, 32, 32)
    _, module, backbone = run(DenseContrast(), image, image)
    with torch.no_grad():
        module.project[-1].weight.zero_()
    output = module(Step(Batch(image, {}), SharedEncoder(backbone), {}))
    assert output.loss.item() == pytest.approx(output.metrics["chance"].item(), rel=1e-4)


@given(number=st.integers(1, 9), places=st.integers(1, 50), most=st.integers(1, 60))
def test_points_are_different_ones_of_each_slice(number, places, most):
    rows = drawn(number, places, most).tolist()
    for row in rows:
        assert len(row) == len(set(row)) == min(places, most)
        assert all(0 <= place < places for place in row)


def test_a_level_that_the_decoder_does_not_have_is_refused():
    backbone = registry().resolve(BackboneSpec, "fcn:encoder=resnet18").build(1)
    with pytest.raises(UsageError, match=r"level=4 of a decoder that gives 3 maps; choose level=1 .* to 3"):
        DenseContrast(level=4).build(backbone)


def test_only_blocks_up_to_the_map_are_trained():
    output, _, backbone = run(DenseContrast(level=2), *torch.randn(2, 3, 1, 32, 32))
    output.loss.backward()
    trained = [any(p.grad is not None for p in block.parameters()) for block in backbone.decoder.blocks]
    assert trained == [True, True, False, False, False]


@pytest.mark.slow
def test_a_run_learns_it_beside_reconstruction(ssmtl, tmp_path):
    words = ("--data", "phantom:patients=4", "--size", 32, "--batch-size", 8, "--steps", 30, "--backbone", SMALL)
    done = ssmtl("run", *words, "--task", "dense_contrast", "--task", "reconstruct_next:t=2", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "dense_contrast: no comparison: its loss" in done.stderr


@pytest.mark.slow
def test_two_processes_train_a_decoder_of_which_it_reads_a_part(ssmtl_process, tmp_path):
    words = ("--data", "phantom:patients=1", "--size", 32, "--batch-size", 4, "--steps", 3, "--backbone", SMALL)
    processes = ("--devices", 2, "--accelerator", "cpu")
    done = ssmtl_process("run", *words, *processes, "--task", "dense_contrast", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", cases("dense_contrast"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()
