"""What the task promises, and the toolkit's own checks."""

import pytest
import torch
from ssmtl_depth import Depth
from ssmtl_depth.module import depth_of

from ssmtl_toolkit.engine.step import Position
from ssmtl_toolkit.testing import cases
from ssmtl_toolkit.testing.sample import Small, step


@pytest.mark.parametrize("case", cases("depth"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()


def position(index, count):
    index, count = torch.tensor(index), torch.tensor(count)
    return Position(index, count, torch.full(index.shape, 2.5), torch.zeros_like(index))


def test_the_first_slice_is_at_0_the_last_at_1_and_an_only_one_at_0():
    assert depth_of(position([0, 10, 3, 2, 0], [11, 11, 4, 9, 1])).tolist() == [0, 1, 1, 0.25, 0]


def test_the_loss_is_the_squared_error_of_the_depth_and_the_constant_its_variance():
    torch.manual_seed(0)
    backbone, anchors = Small().build(1).eval(), torch.randn(4, 1, 16, 16)
    task = Depth().build(backbone)
    output = task(step(backbone, anchors, position([0, 1, 4, 3], [5, 5, 5, 4])))
    depth = torch.tensor([0, 0.25, 1, 1])
    with torch.no_grad():
        predicted = backbone(anchors).pooled @ task.predict.weight[0] + task.predict.bias
    assert output.loss.item() == pytest.approx(((predicted - depth) ** 2).sum().item() / 4, rel=1e-5)
    # by hand: the mean is 0.5625, the deviations 0.5625, 0.3125, 0.4375 and 0.4375
    assert output.metrics["constant"].item() == pytest.approx(0.1992188, abs=1e-6)
    assert output.pairs == 4


def test_it_learns_where_slices_lie_that_show_it():
    torch.manual_seed(0)
    backbone = Small().build(1).train()
    task = Depth().build(backbone)
    depths = torch.rand(32)
    slices = depths[:, None, None, None] + 0.1 * torch.randn(32, 1, 16, 16)
    where = position((depths * 100).long().tolist(), [101] * 32)
    adam = torch.optim.Adam([*backbone.parameters(), *task.parameters()], lr=1e-2)
    for _ in range(60):
        output = task(step(backbone, slices, where))
        adam.zero_grad()
        output.loss.backward()
        adam.step()
    assert output.loss < 0.1 * output.metrics["constant"]
