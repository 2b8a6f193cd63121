"""What the preparation promises, and the toolkit's own checks."""

import numpy as np
import pytest
from ssmtl_trim import Trim

from ssmtl_toolkit.data.prepare import Sliced
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.testing import cases


@pytest.mark.parametrize("case", cases("trim"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()


def test_a_tenth_is_dropped_at_either_end_and_the_others_stay_where_they_were():
    array = np.broadcast_to(np.arange(20.0), (3, 3, 20)).astype(np.float32)
    volume = Volume(array, np.diag([1.0, 1.0, 4.0, 1.0]), (1.0, 1.0, 4.0))
    sliced = Sliced.of(volume, Slicing(axis="axial", size=8, prepare=(Trim(share=0.1),)))
    assert sliced.stack.slices[:, 0, 0, 0].tolist() == list(range(2, 18))
    assert sliced.stack.affine[2, 3] == 8  # mm: the third slice
