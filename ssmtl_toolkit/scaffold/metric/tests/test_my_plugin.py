"""What the metric should do, compared with volumes worked out by hand; and the checks that every metric passes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ssmtl_toolkit import finetune
from ssmtl_toolkit.engine.metric import Comparison
from ssmtl_toolkit.testing import Case, cases

from my_plugin import MyPlugin

SPACING = (1.0, 2.0, 5.0)  # a voxel is 0.01 ml


def box(voxels: int) -> NDArray[np.bool_]:
    mask = np.zeros((10, 10, 10), bool)
    mask.reshape(-1)[:voxels] = True
    return mask


def score(predicted: int, truth: int, tolerance: float = 0.0) -> float | None:
    metric = MyPlugin(tolerance=tolerance)
    return metric.score(Comparison(box(predicted), box(truth), SPACING))


def test_it_is_the_difference_of_the_volumes_in_ml_whichever_is_larger() -> None:
    assert score(300, 200) == pytest.approx(1.0)
    assert score(200, 300) == pytest.approx(1.0)
    assert score(200, 200) == 0


def test_a_class_that_is_missed_or_invented_has_its_whole_volume_as_error() -> None:
    assert score(0, 250) == score(250, 0) == pytest.approx(2.5)


def test_errors_within_the_tolerance_count_as_none_and_tables_say_so() -> None:
    assert score(300, 200, tolerance=1.5) == 0
    assert score(400, 200, tolerance=1.5) == pytest.approx(2.0)
    assert MyPlugin(tolerance=1.5).remark() == "errors up to 1.5 ml count as none"
    assert MyPlugin().remark() == ""


def test_a_fine_tuning_is_scored_by_its_name(tmp_path: Path) -> None:
    tuned = finetune(
        data="phantom:patients=3",
        backbone="unet:encoder=plain,width=8",
        metrics=["my_plugin:tolerance=0.5"],
        size=32,
        steps=2,
        train_scans=1,
        slices_per_scan=4,
        test_scans=1,
        surface=False,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert tuned.summary["arms"]["scratch"]["my_plugin"]["mean"] >= 0


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()
