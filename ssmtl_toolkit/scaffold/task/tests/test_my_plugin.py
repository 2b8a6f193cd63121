"""What the task should do, compared with independent computations; and the checks that every task passes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ssmtl_toolkit import pretrain
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.step import Batch, Companion, Step, TaskOutput
from ssmtl_toolkit.testing import Case, cases
from torch import Tensor, nn

from my_plugin import MyPlugin

CHANNELS = 2  # of the images: any number must do


class OneMap(nn.Module):
    """The smallest encoder: its one map is the deepest."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(CHANNELS, 6, kernel_size=3)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.convolve(image)]


BACKBONE = Backbone(OneMap(), nn.Identity(), in_channels=CHANNELS, pooled_channels=6, dense_channels=0)


def images(number: int, seed: int) -> Tensor:
    return torch.randn(number, CHANNELS, 16, 16, generator=torch.Generator().manual_seed(seed))


def run(task: nn.Module, anchor: Tensor, other: Companion) -> TaskOutput:
    output: TaskOutput = task(Step(Batch(anchor, {}), BACKBONE, {"other": other}))
    return output


def test_the_loss_is_the_cross_entropy_of_before_and_after() -> None:
    task = MyPlugin().build(BACKBONE)
    anchor, other = images(4, seed=0), images(4, seed=1)
    output = run(task, anchor, Companion(other, torch.tensor([-5, 5, 5, -5])))
    difference = (BACKBONE(other).pooled - BACKBONE(anchor).pooled).detach().double().numpy()
    weight, bias = (parameter.detach().double().numpy() for parameter in task.classify.parameters())
    logits = difference @ weight.T + bias
    right = logits[range(4), [0, 1, 1, 0]]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - right)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.metrics["accuracy"].item() == np.mean(right == logits.max(axis=1))
    assert output.metrics["chance"].item() == pytest.approx(0.6931, abs=1e-4)


def test_anchors_without_a_companion_are_skipped() -> None:
    task = MyPlugin().build(BACKBONE)
    anchor, other, offsets, rows = images(6, seed=0), images(2, seed=1), torch.tensor([5, -5]), torch.tensor([1, 4])
    some, few = run(task, anchor, Companion(other, offsets, rows)), run(task, anchor[rows], Companion(other, offsets))
    assert some.pairs == 2
    assert some.loss.item() == pytest.approx(few.loss.item(), rel=1e-5)


def test_a_batch_without_any_pair_gives_a_loss_of_zero() -> None:
    task = MyPlugin().build(BACKBONE)
    nothing = torch.zeros(0, dtype=torch.long)
    output = run(task, images(2, seed=0), Companion(images(0, seed=1), nothing, nothing))
    output.loss.backward()
    assert (output.loss.item(), output.pairs) == (0, 0)


def test_millimetres_are_converted_to_slices_of_the_scan() -> None:
    assert MyPlugin(t="15mm").companions(spacing=5.0) == {"other": (-3, 3)}
    assert MyPlugin(t="1mm").companions(spacing=5.0) == {"other": ()}


def test_it_trains_by_its_name(tmp_path: Path) -> None:
    run = pretrain(
        data="phantom:patients=2",
        backbone="unet:encoder=plain,width=8",
        tasks=["my_plugin:t=2"],
        size=32,
        steps=2,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert 0 < run.summary["tasks"]["my_plugin:t=2"]["loss"] < 5


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()
