"""What the backbone promises, and the toolkit's own checks."""

import pytest
import torch
from ssmtl_tinynet import Tinynet

from ssmtl_toolkit.testing import cases


@pytest.mark.parametrize("case", cases("tinynet"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", [8, 33, 64])
def test_it_takes_any_size_and_any_number_of_channels(size, channels):
    features = Tinynet().build(channels).eval()(torch.randn(1, channels, size, size))
    assert features.dense.shape == (1, 16, size, size)
    assert features.pooled.shape == (1, 128)


def test_it_is_tiny():
    assert sum(p.numel() for p in Tinynet().build(1).parameters()) < 40_000


def test_tasks_can_read_every_map_of_its_encoder_and_decoder():
    levels = Tinynet(levels=3).build(1).levels
    assert [(level.channels, level.stride) for level in levels.encoder] == [(16, 1), (32, 2), (64, 4)]
    assert [(level.channels, level.stride) for level in levels.decoder] == [(16, 1), (32, 2)]
