"""Scores of slices: PSNR and SSIM."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.evaluation.scores import check_monai

_WINDOW = 11  # pixels, of SSIM


def psnr(clean: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (N,), of slices (N, 1, H, W), each slice by itself.

    The peak is the range of the clean slice, its largest value less its smallest: PSNR = 10 log10(range² / MSE).
    Equal slices have an infinite one; NaN if the clean slice has only one value: undefined.
    """
    value_range = _range(clean)
    error = (clean.double() - other.double()).square().flatten(1).mean(1)
    return torch.where(value_range > 0, 10 * torch.log10(value_range.square() / error), math.nan)


def ssim(clean: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), (N,), of slices (N, 1, H, W), each slice by itself.

    By MONAI: a Gaussian window of 11 pixels, sigma 1.5, without padding. Both slices are moved and scaled so that the
    clean one goes from 0 to 1. NaN if the clean slice has only one value: undefined.

    Raises:
        UsageError: MONAI is not installed.
        DataError: the slices are smaller than the window.
    """
    check_monai("SSIM scores")
    if min(clean.shape[-2:]) < _WINDOW:
        shape = " x ".join(map(str, clean.shape[-2:]))
        raise DataError(f"SSIM needs slices of at least {_WINDOW} x {_WINDOW} pixels, got {shape}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI's own imports
        from monai.metrics.regression import SSIMMetric
    value_range = _range(clean)
    low, scale = clean.amin((1, 2, 3), keepdim=True), value_range.clamp(min=torch.finfo(torch.float64).tiny)
    first, second = (((a.double() - low) / scale[:, None, None, None]).float() for a in (clean, other))
    metric: Any = SSIMMetric(spatial_dims=2, data_range=1.0, win_size=_WINDOW)
    return torch.where(value_range > 0, metric(second, first)[:, 0].double(), math.nan)


def _range(slices: Tensor) -> Tensor:
    """Largest less smallest value of each slice of (N, 1, H, W): (N,) float64."""
    return slices.double().amax((1, 2, 3)) - slices.double().amin((1, 2, 3))


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, "ssim": ssim}
"""How each metric of images is computed, by its key: from clean and other slices (N, 1, H, W) to values (N,)."""
