"""What the augmentation should do, compared with independent computations; and the checks that each one passes."""

from pathlib import Path

import pytest
import torch
from ssmtl_toolkit import finetune
from ssmtl_toolkit.testing import Case, cases
from torch import Tensor

from my_plugin.values import SmoothField


def log_field(by: float, number: int = 200) -> Tensor:
    """The logarithm of what it multiplies by, (number, 9, 9)."""
    torch.manual_seed(0)
    image = torch.ones(number, 1, 9, 9)
    image[:, :, 4, 4] = 0  # the darkest pixel
    return SmoothField(by).values(image)[:, 0].log()


def test_the_darkest_pixel_stays_and_no_other_becomes_darker() -> None:
    image = torch.randn(4, 2, 16, 16)
    changed = SmoothField(2.0).values(image)
    assert torch.equal(changed.amin(dim=(2, 3)), image.amin(dim=(2, 3)))
    assert bool((changed >= image.amin(dim=(2, 3), keepdim=True)).all())


def test_the_field_is_smooth_and_nowhere_above_the_largest_factor_or_below_its_inverse() -> None:
    field = log_field(by=2.0)[:, [0, 8], :]
    assert float(field.exp().max()) <= 2.0
    assert float(field.exp().min()) >= 0.5
    assert float(field.exp().max()) > 1.5  # but it comes near
    assert float(field.diff(n=2, dim=2).abs().max()) < 1e-5  # a straight line along each edge


def test_slices_get_fields_of_their_own() -> None:
    corners = log_field(by=2.0)[:, 0, 0]
    assert len(corners.unique()) > 150
    assert float(corners.mean().abs()) < 0.05


def test_a_slice_of_one_value_stays_as_it_is() -> None:
    assert torch.equal(SmoothField(2.0).values(torch.zeros(2, 1, 8, 8)), torch.zeros(2, 1, 8, 8))


def test_a_network_is_fine_tuned_with_it_by_its_name(tmp_path: Path) -> None:
    tuned = finetune(
        data="phantom:patients=3",
        backbone="unet:encoder=plain,width=8",
        augment=["my_plugin:by=2", "affine"],
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
