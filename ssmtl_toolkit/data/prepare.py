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
    """The slices of one scan: (S, size, size) float16, zero mean and unit variance each.

    `spacing` is mm between slices; `blank` counts the slices of one single value, which are all zero here.
    """

    slices: NDArray[np.float16]
    spacing: float
    axis: Axis
    blank: int
    notes: tuple[str, ...]


def prepare(volume: Volume, slicing: Slicing) -> Prepared:
    """Cut `volume` along the axis, clip to the window, resize, and normalise every slice by itself.

    Raises:
        DataError: all voxels have one value.
    """
    if volume.array.min() == volume.array.max():
        raise DataError(f"is blank: all voxels are {volume.array.flat[0]:g}: no image; export the scan again")
    stack = Stack.of(volume, slicing.axis)
    out = np.empty((len(stack.slices), slicing.size, slicing.size), dtype=np.float16)
    blank = 0
    for start in range(0, len(out), _SLICES_AT_ONCE):
        part = standardise(stack.slices[start : start + _SLICES_AT_ONCE], slicing)
        out[start : start + len(part.slices)] = part.slices
        blank += int((part.deviation == 0).sum())
    if blank == len(out):
        raise DataError(f"has nothing but blank slices once clipped to {slicing.window}; choose another --window")
    return Prepared(out, stack.spacing[0], stack.axis, blank, volume.notes)


@dataclass(frozen=True)
class Standard:
    """Slices (S, size, size) float32 with zero mean and unit variance, and the `mean` and `deviation` (S,) they had.

    The deviation of a slice of one value is 0, and so are its pixels.
    """

    slices: NDArray[np.float32]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def standardise(slices: NDArray[Any], slicing: Slicing) -> Standard:
    """Make of slices (S, H, W) in the scan's own units what the network sees: clipped, resized, normalised."""
    part = np.asarray(slices, dtype=np.float32)
    if slicing.window is not None:
        part = part.clip(*slicing.window)
    return normalise(resize(part, slicing.size))


def resize(slices: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize images (S, H, W) to (S, size, size), bilinear, anti-aliased where it shrinks."""
    if slices.shape[1:] == (size, size):
        return slices
    image = torch.from_numpy(np.ascontiguousarray(slices))[:, None]
    resized = F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return resized[:, 0].numpy()


def resize_labels(labels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize labels (S, H, W) to (S, height, width): each pixel takes the value at its centre, none is made up."""
    rows = (np.arange(height) + 0.5) * labels.shape[1] / height
    columns = (np.arange(width) + 0.5) * labels.shape[2] / width
    return labels[:, rows.astype(int)[:, None], columns.astype(int)]


def normalise(slices: NDArray[np.float32]) -> Standard:
    """Give each slice (S, H, W) zero mean and unit variance; a slice of one value becomes zeros."""
    mean = slices.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    centred = slices - mean
    deviation = centred.std(axis=(1, 2), keepdims=True)
    scale = np.abs(slices).max(axis=(1, 2), keepdims=True)
    constant = deviation <= 1e-6 * scale  # what is left of one value after rounding
    normal = np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation))
    return Standard(normal.astype(np.float32), mean[:, 0, 0], np.where(constant, 0.0, deviation)[:, 0, 0])
