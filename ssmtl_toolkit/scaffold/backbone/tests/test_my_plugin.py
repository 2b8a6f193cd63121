"""What the backbone should do; and the checks that every backbone passes."""

from pathlib import Path

import pytest
import torch
from ssmtl_toolkit import pretrain
from ssmtl_toolkit.testing import Case, cases

from my_plugin import MyPlugin


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (33, 47), (64, 64)])
def test_images_of_any_size_give_features_with_the_stated_channels(height: int, width: int, channels: int) -> None:
    backbone = MyPlugin(width=4).build(channels)
    features = backbone(torch.randn(2, channels, height, width))
    assert features.pooled.shape == (2, backbone.pooled_channels)
    assert features.dense.shape == (2, backbone.dense_channels, height, width)


def test_a_slice_has_the_same_features_alone_and_among_others() -> None:
    backbone = MyPlugin(width=4).build(in_channels=2).train()
    images = torch.randn(3, 2, 16, 16)
    assert torch.allclose(backbone(images).dense[:1], backbone(images[:1]).dense, atol=1e-5)


def test_each_map_is_half_as_wide_as_the_one_before_it() -> None:
    pyramid = MyPlugin(width=4).build(in_channels=3)(torch.randn(1, 3, 40, 40)).pyramid
    assert [tuple(level.shape[1:]) for level in pyramid] == [(4, 20, 20), (8, 10, 10), (16, 5, 5)]


def test_it_trains_by_its_name(tmp_path: Path) -> None:
    run = pretrain(
        data="phantom:patients=2",
        backbone="my_plugin:width=4",
        tasks=["reconstruct_next:t=2", "slice_siam:t=2"],
        size=32,
        steps=2,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert run.backbone.is_file()
    assert run.summary["steps"] == 2


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()
