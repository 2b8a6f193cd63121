"""What the task promises, and the toolkit's own checks."""

import math

import pytest
import torch
from ssmtl_rotation.module import Rotation, turned

from ssmtl_toolkit.testing import cases


@pytest.mark.parametrize("case", cases("rotation"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()


def test_each_slice_is_turned_by_its_own_number_of_quarter_turns():
    image = torch.arange(8 * 9.0).reshape(4, 2, 3, 3)
    found = turned(image, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(found[0], image[0])
    for channel in range(2):
        assert torch.equal(found[1, channel], image[1, channel].T.flip(0))
        assert torch.equal(found[2, channel], image[2, channel].flip(0, 1))
        assert torch.equal(found[3, channel], image[3, channel].T.flip(1))


def test_a_guess_costs_the_logarithm_of_four():
    class Step:
        anchor = torch.randn(64, 1, 8, 8)

        @staticmethod
        def encode(image):
            return type("Features", (), {"pooled": torch.zeros(len(image), 5)})

    task = Rotation(5)
    torch.nn.init.zeros_(task.classify.bias)
    assert task(Step).loss.item() == pytest.approx(math.log(4))
