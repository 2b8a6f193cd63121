"""The signed distance of slices: the loss against an independent computation, its units, and its sign."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.small import SMALL, blobs
from ssmtl_position import SlicePosition
from ssmtl_position.module import SlicePosition as Module
from ssmtl_toolkit.engine.step import Batch, Companion, Position, SharedEncoder, Step
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, TaskSpec
from ssmtl_toolkit.testing import cases


def numbers(tensor):
    return tensor.detach().double().numpy()


def backbone_of(text=SMALL):
    torch.manual_seed(0)
    return registry().resolve(BackboneSpec, text).build(1).eval()


def position(spacing):
    number = len(spacing)
    every = torch.arange(number)
    return Position(every, torch.full_like(every, 99), torch.tensor(spacing), torch.zeros_like(every))


def step_of(backbone, anchor, other, offsets, rows, spacing):
    companion = Companion(other, torch.tensor(offsets), torch.tensor(rows))
    return Step(Batch(anchor, {}, position(spacing)), SharedEncoder(backbone), {"other": companion})


def distance(module, anchor, other):
    """h(anchor, other) - h(other, anchor), from the weights."""
    first, _, last = module.compare

    def h(*pair):
        hidden = np.maximum(np.hstack(list(map(numbers, pair))) @ numbers(first.weight).T + numbers(first.bias), 0)
        return (hidden @ numbers(last.weight).T)[:, 0]

    return h(anchor, other) - h(other, anchor)


def smooth(error):
    return np.mean([e * e / 2 if abs(e) < 1 else abs(e) - 0.5 for e in error])


def test_the_loss_is_the_formula_for_scans_of_other_spacing_and_ends_without_companion():
    backbone = backbone_of()
    module = SlicePosition().build(backbone).train()
    torch.manual_seed(1)
    anchor, other = torch.randn(5, 1, 32, 32), torch.randn(3, 1, 32, 32)
    offsets, rows, spacing = [-3, 1, 2], [0, 2, 4], [2.0, 9.0, 5.0, 9.0, 2.0]
    output = module(step_of(backbone, anchor, other, offsets, rows, spacing))
    mm = np.array([-6.0, 5.0, 4.0])
    unit = np.mean([6, 5, 4])
    predicted = distance(module, backbone(anchor).pooled[rows], backbone(other).pooled)
    assert output.loss.item() == pytest.approx(smooth(predicted - mm / unit), rel=1e-4)
    assert output.metrics["zero"].item() == pytest.approx(smooth(mm / unit), rel=1e-5)
    assert output.metrics["mm"].item() == pytest.approx(np.abs(predicted * unit - mm).mean(), rel=1e-4)
    assert output.metrics["zero_mm"].item() == pytest.approx(unit)
    assert output.pairs == 3


def test_the_unit_is_the_mean_distance_of_all_pairs_trained_on():
    backbone = backbone_of()
    module = SlicePosition().build(backbone)
    anchor = torch.randn(2, 1, 32, 32)

    def zero_of(offsets, spacing):
        step = step_of(backbone, anchor, anchor.flip(0), offsets, [0, 1], spacing)
        return module(step).metrics["zero"].item()

    module.eval()
    assert zero_of([1, -1], [4.0, 4.0]) == pytest.approx(0.5)  # of a module without a past: that of the batch
    module.train()
    assert zero_of([1, -3], [1.0, 1.0]) == pytest.approx(smooth([1 / 2, 3 / 2]))
    assert zero_of([5, -7], [1.0, 1.0]) == pytest.approx(smooth([5 / 4, 7 / 4]))  # (1 + 3 + 5 + 7) / 4
    module.eval()
    assert zero_of([8, 2], [1.0, 1.0]) == pytest.approx(smooth([8 / 4, 2 / 4]))
    assert zero_of([8, 2], [1.0, 1.0]) == pytest.approx(smooth([8 / 4, 2 / 4]))


@given(spacing=st.floats(0.1, 20), t=st.integers(1, 30))
def test_zero_costs_about_as_much_whatever_the_spacing_and_the_distance(spacing, t):
    offsets = [offset for offset in range(-t, t + 1) if offset]
    spec = SlicePosition(t=t)
    assert sorted(spec.companions(spacing)["other"]) == offsets
    module = Module(4)
    mm = torch.tensor(offsets) * spacing
    truth = (mm / module._unit(mm)).numpy()
    assert 0.4 < smooth(truth) < 0.7


def test_two_slices_in_the_other_order_have_the_negative_distance():
    backbone = backbone_of()
    module = SlicePosition().build(backbone).eval()
    one, two = torch.randn(2, 4, 1, 32, 32)
    steps = [step_of(backbone, a, b, [k] * 4, range(4), [1.0] * 4) for a, b, k in ((one, two, 3), (two, one, -3))]
    losses = [module(step).loss.item() for step in steps]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_distance_in_mm_is_by_each_scans_spacing_and_none_if_slices_are_farther_apart():
    spec = registry().resolve(TaskSpec, "slice_position:t=10mm")
    assert spec.companions(4.0) == {"other": (-3, -2, -1, 1, 2, 3)}
    assert spec.companions(30.0) == {"other": ()}


@pytest.mark.slow
def test_it_is_learned_on_scans_that_change_along_the_stack(ssmtl, tmp_path):
    for i in range(3):
        affine = np.diag([0.8, 0.8, 2.0, 1.0])
        (tmp_path / "scans").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(blobs(16, seed=i), affine), tmp_path / "scans" / f"p{i}.nii.gz")
    words = ("--data", tmp_path / "scans", "--size", 32, "--steps", 60, "--batch-size", 8, "--backbone", SMALL)
    done = ssmtl("run", *words, "--task", "slice_position", "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    (task,) = json.loads(done.stdout)["tasks"].values()
    assert task["verdict"] == "learned", task
    assert task["mm"] < 0.6 * task["zero_mm"]


@pytest.mark.parametrize("case", cases("slice_position"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()
