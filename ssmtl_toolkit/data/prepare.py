"""From a volume to the slices a network sees: cut, prepared, resized, normalised; and the way back to the volume."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ssmtl_toolkit.data.lattice import Lattice, Line
from ssmtl_toolkit.data.preparation import Stage, Undo, lowest
from ssmtl_toolkit.data.slicing import Level, Slicing
from ssmtl_toolkit.data.uneven import to_make_even, unevenness
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.specs import PreparationSpec, named
from ssmtl_toolkit.text import sizes_text

REVISION = 1  # raise it when the same volume would give other slices: cached ones are made anew
_PIXELS_AT_ONCE = 1 << 18  # of slices that are prepared together: what they become stays in the cache of a core

_Labels = TypeVar("_Labels", bound=np.generic)


@dataclass(frozen=True)
class Prepared:
    """The slices of one scan, normalised: (S, C, size, size) float16; if patches are used (S, C, h, w).

    `spacing` is mm between slices, in time ms, 0 if unknown; `axis` what they follow along; `frames` how many slices a
    sequence in time has; `blank` counts the slices all of whose channels are of one single value, which are
    all zero here; `sides` are h and w, if patches are used.
    """

    slices: NDArray[np.float16]
    spacing: float
    axis: str
    blank: int
    notes: tuple[str, ...]
    sides: tuple[int, int] | None = None
    frames: int | None = None


def prepare(volume: Volume, slicing: Slicing) -> Prepared:
    """Cut `volume` along the axis, prepare, resize, and normalise each channel.

    Raises:
        DataError: all voxels of a channel have one value, or there are levels for another number of channels.
    """
    refuse_blank(volume)
    sliced = Sliced.of(volume, slicing)
    number, channels = len(sliced), sliced.channels
    out = np.empty((number, channels, *sliced.sides), dtype=np.float16)
    blank = np.empty((number, channels), dtype=bool)
    step = max(1, _PIXELS_AT_ONCE // (channels * max(math.prod(sliced.sides), math.prod(sliced.stack.grid[1:]))))
    for start in range(0, number, step):
        rows = slice(start, start + step)
        part = sliced.standard(rows)
        torch.from_numpy(out[rows]).copy_(torch.from_numpy(part.slices))  # as numpy rounds, in a tenth of the time
        blank[rows] = part.blank
    for c in np.flatnonzero(blank.all(axis=0)):
        has = "has" if channels == 1 else f"channel {c + 1} of {channels} has"
        listed = ", ".join(map(str, slicing.prepare))
        how = f"prepared by {listed}" if listed else f"clipped to {slicing.window}"
        what = "--prepare" if slicing.prepare else "--window"
        raise DataError(f"{has} nothing but blank slices once {how}; choose another {what}")
    sides = sliced.sides if slicing.patches else None
    stack, empty = sliced.stack, int(blank.all(axis=1).sum())
    return Prepared(out, stack.spacing[0], stack.along, empty, volume.notes, sides, stack.frames)


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
class Sliced:
    """A scan as slices, and the way from its voxels to them and back.

    Attributes:
        cut: the slices on the file's own grid.
        stack: they as prepared, before they are resized and normalised.
        lattice: where the pixels of `stack` lie among those of `cut`; None: at the same places.
        undo: what takes back the changes of values, in order.
        voxels: those of `stack`, (C, …), in any order.
    """

    slicing: Slicing
    cut: Stack
    stack: Stack
    lattice: Lattice | None
    undo: tuple[Undo, ...]
    voxels: NDArray[Any]

    @classmethod
    def of(cls, volume: Volume, slicing: Slicing) -> Sliced:
        """Cut and prepare a scan.

        Raises:
            DataError: it cannot be prepared so, or its slices are unevenly spaced, once prepared too.
        """
        cut = Stack.of(volume, slicing.axis)
        if not slicing.prepare:
            _check_even(cut, volume)
            return cls(slicing, cut, cut, None, (), volume.by_channel)
        stack, lattice, undo = cut, None, list[Undo]()
        if slicing.window is not None:
            stack = replace(cut, slices=np.asarray(cut.slices, np.float32).clip(*slicing.window))
        for spec in slicing.preparations:
            stage = _stage(spec, stack, slicing.size)
            if stage.lattice is not None:
                lattice = (lattice or Lattice.of(cut.grid)).then(stage.lattice)
            undo += [stage.undo] if stage.undo else []
            stack = stage.stack
        _check_even(stack, volume)
        if slicing.patches and min(stack.grid[1:]) < slicing.size:
            sides = sizes_text(stack.grid[1:])
            raise DataError(f"has slices of {sides} pixels, less than --size {slicing.size}; put fit=patch last")
        return cls(slicing, cut, stack, lattice, tuple(undo), np.moveaxis(stack.slices, 1, 0))

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of the slices that are stored."""
        _, height, width = self.stack.grid
        return (height, width) if self.slicing.patches else (self.slicing.size, self.slicing.size)

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self.stack.slices)

    @property
    def channels(self) -> int:
        """How many channels the slices have."""
        channels: int = self.stack.slices.shape[1]
        return channels

    @property
    def own_levels(self) -> list[Level]:
        """Mean and deviation of each channel, over all voxels."""
        window = None if self.slicing.prepare else self.slicing.window  # else it has been applied
        clipped = (voxels if window is None else voxels.clip(*window) for voxels in self.voxels)
        return [(float(one.mean(dtype=np.float64)), float(one.std(dtype=np.float64))) for one in clipped]

    @functools.cached_property
    def levels(self) -> tuple[Level, ...] | None:
        """For each channel the mean and deviation that all slices share; None: each slice has its own.

        Raises:
            DataError: the options give them for another number of channels.
        """
        if self.slicing.normalise == "data":
            raise ValueError("the levels of the data are not known yet")
        given = self.slicing.levels
        if given is not None and len(given) != self.channels:
            raise DataError(
                f"has {self.channels} channels, and --normalise {self.slicing.normalise} is for {len(given)}"
            )
        return tuple(self.own_levels) if given is None and self.slicing.normalise == "scan" else given

    def standard(self, rows: slice) -> Standard:
        """These slices as the network sees them.

        Raises:
            DataError: as `levels`.
        """
        return standardise(self.stack.slices[rows], self.slicing, self.levels)

    def labels(self, index: NDArray[_Labels], outside: int = 0) -> NDArray[_Labels]:
        """Labels on the file's grid (I, J, K) as those of the slices: (S, rows, columns), none interpolated.

        Each pixel has the label of the voxel nearest to its centre; `outside`: where there is none.
        """
        labels = self.prepared_labels(index, outside)
        return labels if self.slicing.patches else np.asarray(resize_labels(labels, *self.sides))

    def prepared_labels(self, index: NDArray[_Labels], outside: int = 0) -> NDArray[_Labels]:
        """The same before slices are resized: (S, h, w)."""
        labels = self.cut.cut(index)
        return labels if self.lattice is None else self.lattice.nearest(labels, outside)

    @property
    def source_rows(self) -> NDArray[np.int64]:
        """For each slice which of `cut` it is, or is nearest to."""
        return np.arange(len(self)) if self.lattice is None else self.lattice.slices.nearest

    def undone(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Slices (n, C', h, w) in the values and channels of `stack`, in those of the scan."""
        for undo in reversed(self.undo):
            slices = undo(slices)
        return slices

    @property
    def lowest(self) -> NDArray[np.float32]:
        """The lowest value of each channel, in the values and channels of the scan."""
        low = lowest(self.stack.slices).astype(np.float32)
        return self.undone(low[None, :, None, None])[0, :, 0, 0]


def _check_even(stack: Stack, volume: Volume) -> None:
    if any(stack.positions):
        raise DataError(
            f"{unevenness(volume.affine, volume.slice_axis, volume.positions)}; export the whole series or its parts "
            f"as series, or interpolate it by its true positions: --prepare {to_make_even(stack)}"
        )


def _stage(spec: PreparationSpec, stack: Stack, size: int) -> Stage:
    """What one preparation makes of the slices.

    Raises:
        SsmtlError: it fails, or what it returns does not fit together.
    """
    with foreign(named(spec)):
        stage = spec.prepare(stack, size)
        grid = stack.grid if stage.lattice is None else stage.lattice.grid
        slices = stage.stack.slices
        if slices.ndim != 4 or stage.stack.grid != grid or 0 in slices.shape:
            raise ValueError(f"its slices are {sizes_text(slices.shape)}, and their places {sizes_text(grid)}")
        if slices.dtype.kind == "f" and not np.isfinite(slices).all():
            raise ValueError("it makes values that are not finite")
    if stack.frames is not None and stage.lattice and stage.lattice.slices != Line.of(len(stack.slices)):
        raise DataError(
            f"has frames in time, and preparation {str(spec)!r} would change their number or mix them with those of "
            f"other positions; --axis time takes preparations within slices only"
        )
    return stage


@dataclass(frozen=True)
class Standard:
    """Slices (S, C, size, size) float32 as the network sees them, of patches larger, and how to undo that (S, C).

    A value is `slices` times `deviation` plus `mean`. Where all pixels have one value it is `blank`, and if slices are
    normalised by themselves its `deviation` and its pixels are 0.
    """

    slices: NDArray[np.float32]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    blank: NDArray[np.bool_]


def standardise(slices: NDArray[Any], slicing: Slicing, levels: Sequence[Level] | None = None) -> Standard:
    """Make of prepared slices (S, C, H, W) what the network sees: clipped, resized, normalised.

    `levels`: one for each channel, or None for slices that are normalised by themselves.
    """
    part = np.asarray(slices, dtype=np.float32)
    if slicing.window is not None and not slicing.prepare:  # else it has been done before these
        part = part.clip(*slicing.window)
    resized = part if slicing.patches else resize(part, slicing.size)
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
    normal = slices - mean
    deviation = normal.std(axis=(2, 3), keepdims=True)
    scale = np.abs(slices).max(axis=(2, 3), keepdims=True)
    constant = deviation <= 1e-6 * scale  # what is left of one value after rounding
    normal /= np.where(constant, 1.0, deviation)
    normal[constant[..., 0, 0]] = 0.0
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
