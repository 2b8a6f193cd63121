"""Scores of slices: PSNR and SSIM."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssmtl_toolkit.engine.metric import Comparison
from ssmtl_toolkit.errors import DataError

_WINDOW = 11  # pixels, of SSIM


def of_slice(score: Callable[[Tensor, Tensor], Tensor], comparison: Comparison) -> float | None:
    """Score one slice by a function of clean and other slices (N, C, H, W) -> (N,); None if it is undefined."""
    clean, other = (torch.tensor(image)[None] for image in (comparison.truth, comparison.predicted))
    value = float(score(clean, other))
    return None if math.isnan(value) else value


def psnr(clean: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (N,), of slices (N, C, H, W), each slice by itself, the mean over its channels.

    The peak is the range of the clean slice, its largest value less its smallest: PSNR = 10 log10(range² / MSE).
    Equal slices have an infinite one. A channel in which the clean slice is of one value is undefined and not in the
    mean; NaN where all are.
    """
    return _mean_over_channels(_psnr, clean, other)


def _psnr(clean: Tensor, other: Tensor) -> Tensor:
    value_range = _range(clean)
    error = (clean.double() - other.double()).square().flatten(1).mean(1)
    return torch.where(value_range > 0, 10 * torch.log10(value_range.square() / error), math.nan)


def ssim(clean: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), (N,), of slices (N, C, H, W): of each slice the mean over its channels.

    By MONAI: a Gaussian window of 11 pixels, sigma 1.5, without padding. Both slices are moved and scaled so that the
    clean one goes from 0 to 1. A channel in which the clean slice is of one value is undefined and not in the mean; NaN
    where all are.

    Raises:
        DataError: the slices are smaller than the window.
    """
    if min(clean.shape[-2:]) < _WINDOW:
        shape = " x ".join(map(str, clean.shape[-2:]))
        raise DataError(f"SSIM needs slices of at least {_WINDOW} x {_WINDOW} pixels, got {shape}")
    return _mean_over_channels(_ssim, clean, other)


def _ssim(clean: Tensor, other: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI's own imports
        from monai.metrics.regression import SSIMMetric
    value_range = _range(clean)
    low, scale = clean.amin((1, 2, 3), keepdim=True), value_range.clamp(min=torch.finfo(torch.float64).tiny)
    first, second = (((a.double() - low) / scale[:, None, None, None]).float() for a in (clean, other))
    metric: Any = SSIMMetric(spatial_dims=2, data_range=1.0, win_size=_WINDOW)
    return torch.where(value_range > 0, metric(second, first)[:, 0].double(), math.nan)


def _mean_over_channels(score: Callable[[Tensor, Tensor], Tensor], clean: Tensor, other: Tensor) -> Tensor:
    """Score the channels (N, C, H, W) one by one, as slices of one; (N,) means over those that are defined."""
    number, channels = clean.shape[:2]
    each = score(*(a.reshape(number * channels, 1, *a.shape[2:]) for a in (clean, other)))
    return each.reshape(number, channels).nanmean(dim=1)


def _range(slices: Tensor) -> Tensor:
    """Largest less smallest value of each slice of (N, 1, H, W): (N,) float64."""
    return slices.double().amax((1, 2, 3)) - slices.double().amin((1, 2, 3))
