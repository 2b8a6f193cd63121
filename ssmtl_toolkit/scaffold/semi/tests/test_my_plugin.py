"""What the method should do, compared with independent computations; and the checks that every method passes."""

import math
from pathlib import Path

import pytest
import torch
from ssmtl_toolkit import finetune
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.semi import SemiOutput, SemiStep
from ssmtl_toolkit.engine.step import Batch
from ssmtl_toolkit.testing import Case, cases
from torch import Tensor, nn

from my_plugin.module import LowEntropy


def learn(maps: Tensor, progress: float = 1.0, weight: float = 1.0, ramp: float = 0.5) -> SemiOutput:
    """What the method gives if the network answers with these maps (N, classes, H, W)."""
    step = SemiStep(
        batch=Batch(torch.zeros(len(maps), 1, *maps.shape[2:]), {}),
        augmenter=Augmenter([]),
        progress=progress,
        backbone=Backbone(nn.Identity(), nn.Identity(), 1, 1, 1),
        head=lambda features: maps,
        loss=lambda maps, target: maps.sum(),
        teach=lambda image: maps.detach(),
        tasks=dict,
    )
    output: SemiOutput = LowEntropy(weight, ramp)(step)
    return output


def test_an_answer_that_is_open_costs_its_entropy() -> None:
    assert learn(torch.zeros(2, 4, 3, 3)).loss.item() == pytest.approx(math.log(4), rel=1e-5)
    three_to_one = torch.tensor([math.log(3.0), 0.0]).reshape(1, 2, 1, 1)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert learn(three_to_one).loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_decided_answer_costs_nothing_and_has_a_finite_gradient() -> None:
    maps = torch.tensor([200.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    loss = learn(maps).loss
    (gradient,) = torch.autograd.grad(loss, maps)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradient.isfinite().all()


def test_the_weight_rises_and_stays() -> None:
    maps = torch.zeros(1, 2, 3, 3)
    losses = [learn(maps, progress, weight=2.0).loss.item() for progress in (0.0, 0.25, 0.5, 1.0)]
    assert losses == pytest.approx([0, math.log(2), 2 * math.log(2), 2 * math.log(2)], rel=1e-5)


def test_pseudo_labels_are_the_most_probable_classes() -> None:
    pseudo = learn(torch.tensor([[0.0, 5.0, 0.0], [0.0, 0.1, 0.0]]).reshape(2, 3, 1, 1)).pseudo
    assert pseudo is not None
    assert pseudo.labels.flatten().tolist() == [1, 1]
    assert pseudo.sure.flatten().tolist() == [True, False]


def test_it_is_fine_tuned_with_by_its_name(tmp_path: Path) -> None:
    tuned = finetune(
        data="phantom:patients=3",
        backbone="unet:encoder=plain,width=8",
        semi="my_plugin:start=0",
        size=32,
        steps=2,
        train_scans=1,
        slices_per_scan=4,
        test_scans=1,
        surface=False,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert tuned.summary["unlabelled"]["scans"] == 2


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()
