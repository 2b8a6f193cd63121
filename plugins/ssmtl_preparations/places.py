"""Preparations that say where pixels come from: resampled, cropped, fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.lattice import Lattice, Line
from ssmtl_toolkit.data.preparation import Stage
from ssmtl_toolkit.data.volume import Stack

_BINS = 256
_ENOUGH = 2_000_000  # voxels to find a threshold by
_SPECK = 0.01  # rows with less foreground than this share of the fullest are not of the body


def resampled(stack: Stack, between: float | None, within: float | None) -> Stage:
    """Bring slices to these distances in mm, about the middle of the scan; None: as they are."""
    wanted = (between, within, within)
    slices, rows, columns = map(_spaced, stack.grid, stack.spacing, wanted, stack.positions)
    return Stage.of_places(stack, Lattice(slices, rows, columns))


def _spaced(voxels: int, spacing: float, wanted: float | None, uneven: Sequence[float]) -> Line:
    """As many samples as fit, at least one; of unevenly spaced voxels, by their positions in mm."""
    if wanted is None or (abs(wanted / spacing - 1) < 1e-6 and not uneven):
        return Line.of(voxels)
    step = wanted / spacing
    samples = max(1, round(voxels / step))
    if uneven:
        return Line.evenly(np.array(uneven) / spacing, samples, step)
    return Line.of(voxels).centred(samples, step)


def cropped(stack: Stack, margin: float) -> Stage:
    """Crop rows and columns to the foreground of all channels and slices, with a margin in mm."""
    _, height, width = stack.grid
    seen = np.zeros((height, width), np.int64)
    for channel in np.moveaxis(stack.slices, 1, 0):
        seen += _foreground(channel)
    boxes = (_box(seen.sum(axis=1), margin / stack.spacing[1]), _box(seen.sum(axis=0), margin / stack.spacing[2]))
    rows, columns = (Line.of(n).cropped(*box) for n, box in zip((height, width), boxes, strict=True))
    return Stage.of_places(stack, Lattice(Line.of(stack.grid[0]), rows, columns))


def _foreground(channel: NDArray[Any]) -> NDArray[np.int64]:
    """How many slices (S, H, W) are bright at each pixel, (H, W), by the threshold of N. Otsu (1979).

    Values are counted between their 0.5th and 99.5th percentile, so that metal does not set the scale; of large scans
    those of every second pixel, or third, or so on.
    """
    step = int(np.ceil(np.sqrt(channel.size / _ENOUGH)))
    sample = channel[:, ::step, ::step]
    low, high = np.percentile(sample, (0.5, 99.5))
    if low >= high:
        low, high = float(channel.min()), float(channel.max())
    counts, edges = np.histogram(np.clip(sample, low, high), _BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * centres).cumsum()
    with np.errstate(all="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    threshold = edges[1 + int(np.nanargmax(between[:-1]))]
    return np.asarray((channel > threshold).sum(axis=0), np.int64)


def _box(bright: NDArray[np.int64], margin: float) -> tuple[int, int]:
    """From where to where there is foreground, with a margin in pixels; all of it if there is none."""
    there = np.flatnonzero(bright > _SPECK * bright.max())
    if not len(there):
        return 0, len(bright)
    wide = int(np.ceil(margin))
    return max(0, int(there[0]) - wide), min(len(bright), int(there[-1]) + 1 + wide)


def fitted(stack: Stack, how: Literal["squeeze", "pad", "crop", "patch"], size: int) -> Stage:
    """Bring slices to size x size pixels, or for patches to no less."""
    slices, height, width = stack.grid
    if how == "patch":
        rows, columns = (Line.of(n).centred(max(n, size)) for n in (height, width))
        return Stage.of_places(stack, Lattice(Line.of(slices), rows, columns))
    if how == "squeeze":
        lines = [Line.of(n).centred(size, n / size) if n != size else Line.of(n) for n in (height, width)]
    else:
        step = max(1.0, max(height, width) / size) if how == "pad" else 1.0
        lines = [_framed(n, size, step) for n in (height, width)]
    return Stage.of_places(stack, Lattice(Line.of(slices), *lines))


def _framed(voxels: int, size: int, step: float) -> Line:
    """As many samples as `size`, `step` voxels apart, about the middle; those beyond the ends are not seen."""
    if step == 1:
        return Line.of(voxels).centred(size)
    inside = min(size, max(1, round(voxels / step)))
    return Line.of(voxels).centred(inside, voxels / inside).then(Line.of(inside).centred(size))
