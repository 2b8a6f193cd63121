"""What the head should do, compared with independent computations; and the checks that every head passes."""

import math
from pathlib import Path

import pytest
import torch
from ssmtl_toolkit import finetune
from ssmtl_toolkit.engine.head import IGNORE
from ssmtl_toolkit.testing import Case, cases
from torch import Tensor
from torch.nn import functional as F

from my_plugin.module import FocalHead


def loss(maps: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    return FocalHead(dense_channels=4, classes=maps.shape[1], gamma=gamma).loss(maps, target)


def test_the_loss_of_one_pixel_is_the_formula() -> None:
    maps, target = torch.tensor([math.log(3.0), 0.0]).reshape(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)
    p = 3 / 4
    assert loss(maps, target).item() == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-5)


def test_without_gamma_it_is_cross_entropy() -> None:
    maps, target = torch.randn(2, 3, 5, 5), torch.randint(3, (2, 5, 5))
    assert loss(maps, target, gamma=0).item() == pytest.approx(F.cross_entropy(maps, target).item(), rel=1e-5)


def test_a_hard_pixel_counts_more_the_larger_gamma_is() -> None:
    easy, hard = torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([0.0, 3.0]).reshape(1, 2, 1, 1)
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    shares = [(loss(hard, target, gamma) / loss(easy, target, gamma)).item() for gamma in (0.0, 1.0, 2.0)]
    assert shares == sorted(shares)
    assert shares[2] > 10 * shares[0]


def test_pixels_without_a_label_do_not_count() -> None:
    maps, target = torch.randn(1, 3, 4, 4), torch.randint(3, (1, 4, 4))
    target[0, 2:] = IGNORE
    assert loss(maps, target).item() == pytest.approx(loss(maps[:, :, :2], target[:, :2]).item(), rel=1e-5)
    assert loss(maps, torch.full_like(target, IGNORE)).item() == 0


def test_a_pixel_that_is_certain_gives_a_finite_gradient() -> None:
    maps = torch.tensor([100.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(maps, torch.zeros(1, 1, 1, dtype=torch.long), gamma=0.5), maps)
    assert gradient.isfinite().all()


def test_it_is_fine_tuned_by_its_name(tmp_path: Path) -> None:
    tuned = finetune(
        data="phantom:patients=3",
        backbone="unet:encoder=plain,width=8",
        head="my_plugin:gamma=1",
        size=32,
        steps=2,
        train_scans=1,
        slices_per_scan=4,
        test_scans=1,
        surface=False,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert 0 <= tuned.summary["arms"]["scratch"]["dice"]["mean"] <= 1


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()
