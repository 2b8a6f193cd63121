"""Where pixels lie: pieces of slices, coordinates and errors against an independent computation."""

import math

import numpy as np
import pytest
import torch

from helpers.small import SMALL
from ssmtl_locate import Locate
from ssmtl_locate.module import pieces
from ssmtl_toolkit.engine.augmentation import identity, sampled
from ssmtl_toolkit.engine.step import Batch, Position, SharedEncoder, Step
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec
from ssmtl_toolkit.testing import cases


def step_of(anchor, index, count):
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(1).eval()
    number = len(anchor)
    place = Position(
        torch.tensor(index), torch.tensor(count), torch.ones(number), torch.zeros(number, dtype=torch.int64)
    )
    return backbone, Step(Batch(anchor, {}, place), SharedEncoder(backbone), {})


def test_the_loss_is_that_of_coordinates_computed_pixel_by_pixel():
    anchor = torch.randn(3, 1, 16, 16)
    backbone, step = step_of(anchor, [0, 4, 9], [10, 5, 10])
    module = Locate(part=0.5, rotate=40).build(backbone).eval()
    torch.manual_seed(1)
    output = module(step)
    torch.manual_seed(1)
    points = pieces(identity(anchor), 0.5, math.radians(40))
    told = module.read(backbone(sampled(anchor, points)).dense).detach().numpy()
    errors, truths = [], []
    for i, along in enumerate([2 * 0.05 - 1, 2 * 0.9 - 1, 2 * 0.95 - 1]):
        for row in range(16):
            for column in range(16):
                x, y = points[i, row, column].tolist()
                if abs(x) <= 1 and abs(y) <= 1:
                    truths.append([x, y, along])
                    errors.append(told[i, :, row, column] - truths[-1])
    errors, truths = np.array(errors), np.array(truths)
    assert output.loss.item() == pytest.approx(np.mean(errors**2) * 3, rel=1e-4)
    assert output.metrics["middle"].item() == pytest.approx(np.mean(truths.var(axis=0)) * 3, rel=1e-4)
    assert output.metrics["across"].item() == pytest.approx(np.abs(errors[:, :2]).mean() / 2, rel=1e-4)
    assert output.metrics["along"].item() == pytest.approx(np.abs(errors[:, 2]).mean() / 2, rel=1e-4)


def test_a_whole_slice_that_is_not_turned_is_as_if_unmoved():
    anchor = torch.randn(4, 1, 32, 32)
    backbone, step = step_of(anchor, [2, 2, 2, 2], [5] * 4)
    output = Locate(part=1, rotate=0).build(backbone).eval()(step)
    assert output.metrics["unmoved"].item() == pytest.approx(0, abs=1e-6)


def test_pieces_have_sides_within_bounds_and_lie_in_the_slice_unless_turned():
    points = pieces(identity(torch.zeros(200, 1, 8, 8)), 0.25, 0.0)
    assert points.abs().max() < 1
    sides = (points[:, 0, -1, 0] - points[:, 0, 0, 0]) / 2 * 8 / 7
    assert sides.min() >= 0.25 - 1e-6
    assert sides.max() <= 1 + 1e-6
    assert sides.std() > 0.1


def test_a_turn_keeps_lengths_and_angles():
    points = pieces(identity(torch.zeros(50, 1, 9, 9)), 1.0, math.pi)
    right = points[:, 4, 8] - points[:, 4, 0]
    down = points[:, 8, 4] - points[:, 0, 4]
    assert torch.allclose(right.norm(dim=1), torch.full((50,), 16 / 9), atol=1e-5)
    assert torch.allclose((right * down).sum(dim=1), torch.zeros(50), atol=1e-5)
    assert (right[:, 0] < 0).any()


@pytest.mark.parametrize("case", cases("locate"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()
