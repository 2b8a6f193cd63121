"""Fusion of slices: what is mixed, the loss and its trivial answer against independent computations."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from helpers.small import SMALL
from ssmtl_fusion import SliceFusion
from ssmtl_fusion.module import chance, draw_levels, others, segmentation_loss
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, Step
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec
from ssmtl_toolkit.testing import cases

SEEDS = st.integers(0, 2**32)


def slow_loss(logits, level):
    """Cross-entropy + Dice, pixel by pixel and class by class; `logits` (N, K, H, W), `level` (N, H, W)."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = np.mean([-np.log(p[n, level[n, y, x], y, x]) for n, y, x in np.ndindex(level.shape)])
    scores = []
    for k in np.unique(level):
        inside = level == k
        scores.append(2 * p[:, k][inside].sum() / (p[:, k].sum() + inside.sum()))
    return entropy + 1 - np.mean(scores)


def run(spec, anchor):
    """The output, the image that the network saw, its answer, and the drawn levels."""
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(anchor.shape[1]).eval()
    module = spec.build(backbone).eval()
    seen = []
    backbone.encoder.register_forward_pre_hook(lambda _, images: seen.append(images[0].clone()))
    torch.manual_seed(7)
    output = module(Step(Batch(anchor, {}), SharedEncoder(backbone), {}))
    torch.manual_seed(7)
    level = draw_levels(anchor, spec)
    other = others(len(anchor))
    maps = module.classify(backbone(seen[0]).dense)
    return output, seen[0], maps.detach().double().numpy(), level.numpy(), other.numpy()


@pytest.mark.parametrize("channels", [1, 2])
def test_the_loss_is_that_of_the_level_at_which_another_slice_was_mixed_in(channels):
    anchor = torch.randn(4, channels, 32, 32, generator=torch.Generator().manual_seed(1))
    output, seen, maps, level, other = run(SliceFusion(), anchor)
    for n, y, x in np.ndindex(level.shape):
        share = level[n, y, x] / 4
        mixed = share * anchor[other[n], :, y, x] + (1 - share) * anchor[n, :, y, x]
        assert torch.allclose(seen[n, :, y, x], mixed, atol=1e-5)
    assert output.loss.item() == pytest.approx(slow_loss(maps, level), rel=1e-4)
    assert output.metrics["accuracy"].item() == pytest.approx(np.mean(maps.argmax(axis=1) == level))
    assert output.pairs == 4


@given(seed=SEEDS, classes=st.integers(2, 5))
def test_chance_is_what_the_best_constant_answer_costs(seed, classes):
    rng = np.random.default_rng(seed)
    level = np.append(rng.choice(classes, p=rng.dirichlet(np.ones(classes)), size=62), [0, 1]).reshape(1, 8, 8)
    truth = torch.nn.functional.one_hot(torch.tensor(level), classes).movedim(-1, 1).double()

    def cost(logits):
        return slow_loss(np.broadcast_to(logits[None, :, None, None], (1, classes, 8, 8)), level)

    frequency = np.bincount(level.ravel(), minlength=classes) / 64
    found = chance(truth).item()
    assert found == pytest.approx(cost(np.log(frequency + 1e-12)), rel=1e-5)
    assert minimize(cost, rng.normal(size=classes)).fun > found - 1e-5


def test_a_class_that_does_not_occur_costs_nothing():
    level = np.array([[[0, 2], [2, 0]]])
    truth = torch.nn.functional.one_hot(torch.tensor(level), 4).movedim(-1, 1).float()
    maps = torch.randn(1, 4, 2, 2)
    assert segmentation_loss(maps, truth).item() == pytest.approx(slow_loss(maps.double().numpy(), level), rel=1e-4)
    assert chance(truth).item() == pytest.approx(np.log(2) + 0.5)


def test_boxes_are_as_many_and_as_large_as_said_and_levels_are_drawn_evenly():
    image = torch.zeros(400, 1, 96, 96)
    single = draw_levels(image, SliceFusion(boxes=1))
    height, width = ((single > 0).any(dim=d).sum(dim=1) for d in (2, 1))
    drawn = height > 0
    assert drawn.float().mean() == pytest.approx(0.8, abs=0.07)  # of five levels 0 leaves no trace
    for side in (height[drawn], width[drawn]):
        assert side.min() >= 7
        assert side.max() <= 60
        assert side.float().mean() == pytest.approx(34, abs=2)
    assert np.bincount(single.amax(dim=(1, 2)))[1:].tolist() == pytest.approx([80] * 4, abs=35)
    area = (single[drawn] > 0).sum(dim=(1, 2))
    assert torch.equal(area, height[drawn] * width[drawn])


@given(seed=SEEDS, levels=st.integers(2, 6), boxes=st.integers(1, 9), size=st.integers(4, 40))
def test_levels_are_drawn_for_slices_of_any_size(seed, levels, boxes, size):
    torch.manual_seed(seed)
    level = draw_levels(torch.zeros(3, 1, size, size + 3), SliceFusion(levels=levels, boxes=boxes))
    assert level.shape == (3, size, size + 3)
    assert {*level.unique().tolist()} <= {*range(levels)}


def test_no_level_is_rare():
    torch.manual_seed(0)
    level = draw_levels(torch.zeros(200, 1, 96, 96), SliceFusion())
    share = np.bincount(level.flatten()) / level.numel()
    assert share[1:].tolist() == pytest.approx([0.15] * 4, abs=0.02)  # 0 is also what no box covers


@given(seed=SEEDS, number=st.integers(2, 20))
def test_every_slice_is_mixed_with_another_and_each_is_used_once(seed, number):
    torch.manual_seed(seed)
    other = others(number)
    assert sorted(other.tolist()) == list(range(number))
    assert not (other == torch.arange(number)).any()


def test_a_slice_alone_has_nothing_to_be_mixed_with():
    output, *_ = run(SliceFusion(), torch.randn(1, 1, 32, 32))
    assert output.pairs == 0
    assert output.loss.item() == 0


@pytest.mark.slow
def test_a_run_learns_it(ssmtl, tmp_path):
    words = ("--data", "phantom:patients=4", "--size", 32, "--steps", 120, "--lr", 3e-3, "--backbone", SMALL)
    done = ssmtl("run", *words, "--batch-size", 8, "--task", "slice_fusion", "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    (task,) = json.loads(done.stdout)["tasks"].values()
    assert task["verdict"] == "learned", task


@pytest.mark.parametrize("case", cases("slice_fusion"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()
