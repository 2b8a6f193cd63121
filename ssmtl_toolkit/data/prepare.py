"""From a volume to the slices a network sees: cut, resized, each normalised by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ssmtl_toolkit.data.slicing import Axis, Slicing
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.errors import DataError

REVISION = 1  # raise it when the same volume would give other slices: cached ones are made anew
_SLICES_AT_ONCE = 64


@dataclass(frozen=True)
class Prepared:
    """The slices of one scan: (S, C, size, size) float16, zero mean and unit variance in each channel of each.

    `spacing` is mm between slices; `blank` counts the slices all of whose channels are of one single value, which are
    all zero here.
    """

    slices: NDArray[np.float16]
    spacing: float
    axis: Axis
    blank: int
    notes: tuple[str, ...]


def prepare(volume: Volume, slicing: Slicing) -> Prepared:
    """Cut `volume` along the axis, clip to the window, resize, and normalise each channel of each slice by itself.

    Raises:
        DataError: all voxels of a channel have one value.
    """
    refuse_blank(volume)
    stack = Stack.of(volume, slicing.axis)
    number, channels = stack.slices.shape[:2]
    out = np.empty((number, channels, slicing.size, slicing.size), dtype=np.float16)
    blank = np.empty((number, channels), dtype=bool)
    for start in range(0, number, _SLICES_AT_ONCE):
        rows = slice(start, start + _SLICES_AT_ONCE)
        part = standardise(stack.slices[rows], slicing)
        out[rows], blank[rows] = part.slices, part.deviation == 0
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
    """Slices (S, C, size, size) float32, each channel with zero mean and unit variance, and what these were, (S, C).

    Where all pixels have one value the `deviation` is 0, and so are the pixels.
    """

    slices: NDArray[np.float32]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def standardise(slices: NDArray[Any], slicing: Slicing) -> Standard:
    """Make of slices (S, C, H, W) in the scan's own units what the network sees: clipped, resized, normalised."""
    part = np.asarray(slices, dtype=np.float32)
    if slicing.window is not None:
        part = part.clip(*slicing.window)
    return normalise(resize(part, slicing.size))


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
    return Standard(normal.astype(np.float32), mean[..., 0, 0], np.where(constant, 0.0, deviation)[..., 0, 0])
