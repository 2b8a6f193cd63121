"""Preparations that change values and channels, and leave pixels where they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.preparation import Stage
from ssmtl_toolkit.data.volume import Stack


def windowed(stack: Stack, windows: Sequence[tuple[float, float]]) -> Stage:
    """Clip each channel to each window: channels C x windows, in this order."""
    number, channels, height, width = stack.slices.shape
    out = np.empty((number, channels, len(windows), height, width), np.float32)
    for i, (low, high) in enumerate(windows):
        np.clip(stack.slices, low, high, out=out[:, :, i], casting="unsafe")
    return Stage.of_values(stack, out.reshape(number, -1, height, width))


def clipped_to_percentiles(stack: Stack, low: float, high: float) -> Stage:
    """Clip each channel to two percentiles of all its voxels."""
    out = np.array(stack.slices, np.float32)
    for channel in np.moveaxis(out, 1, 0):
        bounds = np.percentile(channel, (low, high))
        if bounds[0] < bounds[1]:  # else nearly all voxels are of one value, and clipping would leave nothing
            np.clip(channel, *bounds, out=channel)
    return Stage.of_values(stack, out)


def with_context(stack: Stack, reach: int) -> Stage:
    """Put `reach` neighbours on either side before and behind each slice, as channels: C x (2 reach + 1)."""
    channels = stack.slices.shape[1]
    neighbours = map(stack.neighbours, range(-reach, reach + 1))
    out = np.concatenate([stack.slices[at] for at in neighbours], axis=1)

    def centre(slices: NDArray[np.float32]) -> NDArray[np.float32]:
        return slices[:, reach * channels : (reach + 1) * channels]

    return Stage.of_values(stack, out, centre)
