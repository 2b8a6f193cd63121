"""From a volume to the slices a network sees: cut, resized, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ssmtl_toolkit.data.levels import levels_of_scan
from ssmtl_toolkit.data.slicing import Axis, Level, Slicing
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.errors import DataError

REVISION = 1  # raise it when the same volume would give other slices: cached ones are made anew
_SLICES_AT_ONCE = 64


@dataclass(frozen=True)
class Prepared:
    """The slices of one scan: (S, C, size, size) float16, normalised.

    `spacing` is mm between slices; `blank` counts the slices all of whose channels are of one single value, which are
    all zero here.
    """

    slices: NDArray[np.float16]
    spacing: float
    axis: Axis
    blank: int
    notes: tuple[str, ...]


def prepare(volume: Volume, slicing: Slicing) -> Prepared:
    """Cut `volume` along the axis, clip to the window, resize, and normalise each channel.

    Raises:
        DataError: all voxels of a channel have one value, or there are levels for another number of channels.
    """
    refuse_blank(volume)
    stack, levels = Stack.of(volume, slicing.axis), levels_of_scan(volume, slicing)
    number, channels = stack.slices.shape[:2]
    out = np.empty((number, channels, slicing.size, slicing.size), dtype=np.float16)
    blank = np.empty((number, channels), dtype=bool)
    for start in range(0, number, _SLICES_AT_ONCE):
        rows = slice(start, start + _SLICES_AT_ONCE)
        part = standardise(stack.slices[rows], slicing, levels)
        out[rows], blank[rows] = part.slices, part.blank
    for c in np.flatnonzero(blank.all(axis=0)):
        has = "has" if channels == 1 else f"channel {c + 1} of {channels} has"
        raise DataError(f"{has} nothing but blank slices once clipped to {slicing.window}; choose another --window")
    return Prepared(out, stack.spacing[0], stack.axis, int(blank.all(axis=1).sum()), volume.notes)


def refuse_blank(volume: Volume) -> None:
    """Refuse a scan without an image.

    Raises:
        DataError: all voxels of a channel have one value; naming the channel if there are several.
    """
    for number, array in enumerate(volume.by_channel, start=1):
        if array.min() == array.max():
            which = "is blank" if volume.channels == 1 else f"channel {number} of {volume.channels} is blank"
            raise DataError(f"{which}: all voxels are {array.flat[0]:g}: no image; export the scan again")


@dataclass(frozen=True)
class Standard:
    """Slices (S, C, size, size) float32 as the network sees them, and for each channel (S, C) how to undo that.

    A value is `slices` times `deviation` plus `mean`. Where all pixels have one value it is `blank`, and if slices are
    normalised by themselves its `deviation` and its pixels are 0.
    """

    slices: NDArray[np.float32]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    blank: NDArray[np.bool_]


def standardise(slices: NDArray[Any], slicing: Slicing, levels: Sequence[Level] | None = None) -> Standard:
    """Make of slices (S, C, H, W) in the scan's own units what the network sees: clipped, resized, normalised.

    `levels` are those of `levels_of_scan`: one for each channel, or None for slices that are normalised by themselves.
    """
    part = np.asarray(slices, dtype=np.float32)
    if slicing.window is not None:
        part = part.clip(*slicing.window)
    resized = resize(part, slicing.size)
    return normalise(resized) if levels is None else _by_levels(resized, levels)


def resize(slices: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize images (S, C, H, W) to (S, C, size, size), bilinear, anti-aliased where it shrinks."""
    if slices.shape[2:] == (size, size):
        return slices
    image = torch.from_numpy(np.ascontiguousarray(slices))
    return F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True).numpy()


def resize_labels(labels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize labels (S, H, W) to (S, height, width): each pixel takes the value at its centre, none is made up."""
    rows = (np.arange(height) + 0.5) * labels.shape[1] / height
    columns = (np.arange(width) + 0.5) * labels.shape[2] / width
    return labels[:, rows.astype(int)[:, None], columns.astype(int)]


def normalise(slices: NDArray[np.float32]) -> Standard:
    """Give each channel of each slice (S, C, H, W) zero mean and unit variance; what is of one value becomes zeros."""
    mean = slices.mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    centred = slices - mean
    deviation = centred.std(axis=(2, 3), keepdims=True)
    scale = np.abs(slices).max(axis=(2, 3), keepdims=True)
    constant = deviation <= 1e-6 * scale  # what is left of one value after rounding
    normal = np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation))
    deviation = np.where(constant, 0.0, deviation)
    return Standard(normal.astype(np.float32), mean[..., 0, 0], deviation[..., 0, 0], constant[..., 0, 0])


def _by_levels(slices: NDArray[np.float32], levels: Sequence[Level]) -> Standard:
    """Normalise each channel of slices (S, C, H, W) by one mean and deviation."""
    mean, deviation = (np.array(numbers)[None] for numbers in zip(*levels, strict=True))
    scale = np.where(deviation > 0, deviation, 1.0)
    normal = (slices - mean[..., None, None]) / scale[..., None, None]
    blank = slices.min(axis=(2, 3)) == slices.max(axis=(2, 3))
    shape = (len(slices), 1)
    return Standard(normal.astype(np.float32), np.tile(mean, shape), np.tile(scale, shape), blank)
