"""What the preparation should do, compared with independent computations; and the checks that each one passes."""

from pathlib import Path

import numpy as np
import pytest
from ssmtl_toolkit import pretrain
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.testing import Case, cases

from my_plugin.values import compressed


def stack_of(values: list[float]) -> Stack:
    array = np.array(values, np.float32).reshape(1, -1, 1)
    return Stack.of(Volume(array, np.eye(4), (1.0, 1.0, 1.0)), "axial")


def test_small_values_stay_and_large_ones_grow_by_their_logarithm() -> None:
    made = compressed(stack_of([0.0, 1.0, 1000.0, 100000.0]), scale=100).stack.slices.ravel()
    values = sorted(made.tolist())
    assert values[:2] == pytest.approx([0.0, 1.0], rel=1e-3)
    assert values[3] - values[2] == pytest.approx(100 * np.log(100), rel=1e-2)


def test_the_values_of_the_scan_come_back() -> None:
    stack = stack_of([-3000.0, 0.0, 12.0, 100000.0])
    stage = compressed(stack, scale=50)
    assert stage.undo is not None
    np.testing.assert_allclose(stage.undo(stage.stack.slices), stack.slices, rtol=1e-3, atol=1e-3)


def test_a_network_is_pre_trained_with_it_by_its_name(tmp_path: Path) -> None:
    run = pretrain(
        data="phantom:patients=3",
        backbone="unet:encoder=plain,width=8",
        tasks=["reconstruct_next"],
        prepare=["my_plugin:scale=200", "fit:pad"],
        size=32,
        steps=2,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert run.summary["steps"] == 2


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()
