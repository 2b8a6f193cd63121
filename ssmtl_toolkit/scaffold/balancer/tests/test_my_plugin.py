"""What the balancer should do, compared with independent computations; and the checks that every balancer passes."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from ssmtl_toolkit import pretrain
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.balancer import Shared
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, TaskOutput
from ssmtl_toolkit.testing import Case, cases
from torch import Tensor, nn

from my_plugin.module import GeometricMean

ONES = {"a": 1.0, "b": 1.0}
ZEROS = {"a": 0.0, "b": 0.0}


def shared(losses: Mapping[str, Tensor], pairs: int) -> Shared:
    """What the balancer is given about the batch: here only how many pairs each loss is a mean over."""
    backbone, batch = Backbone(nn.Identity(), nn.Identity(), 1, 1, 1), Batch(torch.zeros(1, 1, 8, 8), {})
    outputs = {label: TaskOutput(loss, pairs=pairs) for label, loss in losses.items()}
    return Shared(batch, backbone, SharedEncoder(backbone), outputs)


def balance(
    losses: Mapping[str, float],
    exponents: Mapping[str, float] = ONES,
    floors: Mapping[str, float] = ZEROS,
    pairs: int = 8,
) -> tuple[float, dict[str, float]]:
    """Return the balanced loss, and its gradient with respect to each loss."""
    leaves = {label: torch.tensor(loss, requires_grad=True) for label, loss in losses.items()}
    total = GeometricMean(exponents, floors, least=0.0)(leaves, shared(leaves, pairs))
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return total.item(), {label: gradient.item() for label, gradient in zip(leaves, gradients, strict=True)}


def test_it_is_the_log_of_the_product_of_the_losses() -> None:
    total, _ = balance({"a": 2.0, "b": 0.7})
    assert total == pytest.approx(math.log(2.0 * 0.7), rel=1e-5)


def test_a_loss_in_another_unit_pulls_as_hard() -> None:
    _, before = balance({"a": 2.0, "b": 0.5})
    _, after = balance({"a": 2000.0, "b": 0.5})
    assert 1000 * after["a"] == pytest.approx(before["a"], rel=1e-5)
    assert after["b"] == before["b"]


def test_a_loss_that_may_be_negative_is_measured_from_its_floor() -> None:
    total, _ = balance({"a": 3.0, "b": -0.5}, floors={"a": 0.0, "b": -1.0})
    assert total == pytest.approx(math.log(3.0 * 0.5), rel=1e-5)


def test_a_weight_multiplies_the_gradient() -> None:
    _, gradients = balance({"a": 2.0, "b": 2.0}, exponents={"a": 3.0, "b": 1.0})
    assert gradients["a"] == pytest.approx(3 * gradients["b"], rel=1e-5)


def test_losses_without_pairs_do_not_count() -> None:
    total, _ = balance({"a": 0.0, "b": 0.0}, pairs=0)
    assert total == 0


def test_it_trains_by_its_name(tmp_path: Path) -> None:
    run = pretrain(
        data="phantom:patients=2",
        backbone="unet:encoder=plain,width=8",
        tasks=["reconstruct_next:t=2", "slice_siam:t=2"],
        balancer="my_plugin",
        size=32,
        steps=2,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert run.summary["steps"] == 2


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()
