"""Contrast of slices by their place: the loss against an independent computation, and which slices are alike."""

import math

import numpy as np
import pytest
import torch

from helpers.small import SMALL
from ssmtl_contrast import Contrast
from ssmtl_contrast.module import same_place
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.engine.step import Batch, Position, SharedEncoder, Step
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, TaskSpec
from ssmtl_toolkit.testing import cases


def position(index, count, spacing=None, patient=None):
    index, count = torch.tensor(index), torch.tensor(count)
    mm = torch.ones(len(index)) if spacing is None else torch.tensor(spacing)
    return Position(index, count, mm, torch.zeros_like(index) if patient is None else torch.tensor(patient))


def slow_loss(features, positive, temperature):
    """The formula, one view after the other."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    alike, losses = unit @ unit.T / temperature, []
    for i in range(len(unit)):
        others = [a for a in range(len(unit)) if a != i]
        total = np.log(sum(np.exp(alike[i, a]) for a in others))
        losses.append(np.mean([total - alike[i, p] for p in others if positive[i, p]]))
    return np.mean(losses)


def test_the_loss_is_the_formula():
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(1).eval()
    module = Contrast(near=0.3).build(backbone).eval()
    anchor, other = torch.randn(2, 5, 1, 32, 32)
    place = position([0, 1, 2, 7, 9], [10] * 5)
    step = Step(Batch(anchor, {}, place, view=lambda: other), SharedEncoder(backbone), {})
    output = module(step)
    features = module.project(torch.cat([backbone(anchor).pooled, backbone(other).pooled])).detach().double().numpy()
    share = np.tile((np.array([0, 1, 2, 7, 9]) + 0.5) / 10, 2)
    positive = np.abs(share[:, None] - share) <= 0.3 + 1e-9
    assert output.loss.item() == pytest.approx(slow_loss(features, positive, 0.1), rel=1e-4)
    assert output.metrics["chance"].item() == pytest.approx(math.log(9))
    assert output.pairs == 10


def test_features_that_are_all_alike_cost_what_a_guess_costs():
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(1).eval()
    module = Contrast().build(backbone).eval()
    anchor = torch.randn(1, 1, 32, 32).repeat(6, 1, 1, 1)
    output = module(Step(Batch(anchor, {}), SharedEncoder(backbone), {}))
    assert output.loss.item() == pytest.approx(output.metrics["chance"].item(), rel=1e-4)


def test_near_is_a_share_of_each_stack_or_millimetres_from_its_middle():
    place = position([0, 9, 0, 4], [10, 10, 5, 5], spacing=[1.0, 1.0, 4.0, 4.0])
    by_share = same_place(place, Contrast(near=0.1)).int().tolist()
    assert by_share == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    by_mm = same_place(place, Contrast(near="4mm")).int().tolist()  # at -4.5, 4.5, -8 and 8 mm
    assert by_mm == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert same_place(place, Contrast(near="3mm")).int().tolist() == torch.eye(4).int().tolist()


def test_parts_and_views():
    place = position([0, 2, 3, 7], [8] * 4)
    assert same_place(place, Contrast(positives="partition", parts=4)).int().tolist() == [
        *([1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]),
    ]
    assert torch.equal(same_place(place, Contrast(positives="views")), torch.eye(4, dtype=torch.bool))


@pytest.mark.parametrize("text", ["contrast:near=0", "contrast:near=1.5", "contrast:near=0mm", "contrast:near=far"])
def test_what_is_no_distance_is_refused(text):
    with pytest.raises(UsageError, match="near"):
        registry().resolve(TaskSpec, text)


def test_a_task_of_views_is_trained_with_augmentation_unless_it_is_named():
    names = [spec.name for spec in RunConfig(tasks=("contrast",)).resolve().augment]
    assert "affine" in names
    assert "flip" not in names
    assert RunConfig.of({"tasks": ("contrast",), "augment": ("none",)}).resolve().augment == ()
    assert RunConfig(tasks=("reconstruct_prev",)).resolve().augment == ()


def test_the_views_of_a_step_are_drawn_anew_and_the_first_is_the_anchor():
    from ssmtl_toolkit.engine.augmentation import Augmenter
    from ssmtl_toolkit.specs import AugmentationSpec

    augmenter = Augmenter([registry().resolve(AugmentationSpec, "noise:p=1")])
    raw = torch.randn(3, 1, 16, 16)
    batch = augmenter.unlabelled(Batch(raw, {}))
    one, two = batch.view(), batch.view()
    assert not torch.equal(one, two)
    assert not torch.equal(one, batch.anchor)
    assert torch.equal(Batch(raw, {}).view(), raw)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", ":positives=views", ":positives=partition", ":near=10mm"])
def test_a_run_learns_it_beside_reconstruction(ssmtl, tmp_path, options):
    words = ("--data", "phantom:patients=4", "--size", 32, "--batch-size", 8, "--steps", 30, "--backbone", SMALL)
    done = ssmtl("run", *words, "--task", f"contrast{options}", "--task", "reconstruct_next:t=2", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "contrast" in done.stderr


@pytest.mark.parametrize("case", cases("contrast"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()
