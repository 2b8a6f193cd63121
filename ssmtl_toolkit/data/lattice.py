"""Where the pixels of prepared slices lie on the grid that they come from, axis by axis, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-6  # of a voxel
_POINTS = 33  # at which a triangle over unevenly spaced voxels is computed


@dataclass(frozen=True)
class Line:
    """Samples along one axis: sample i lies at `start + i * step`, in voxels of that axis.

    A voxel j reaches from j - 0.5 to j + 0.5. What lies outside of `low` to `high` cannot be seen: it is beyond the
    axis, or was cropped. If voxels, or samples, are unevenly spaced, `voxels_at` or `samples_at` says where they lie,
    in place of 0, 1, 2 …: a voxel then reaches half way to its neighbours.

    >>> Line.of(10).cropped(2, 8), Line.of(10).cropped(2, 8).then(Line.of(6).centred(8)).nearest.tolist()
    (Line(voxels=10, samples=6, start=2, step=1.0, low=1.5, high=7.5), [2, 2, 3, 4, 5, 6, 7, 7])
    """

    voxels: int
    samples: int
    start: float
    step: float
    low: float
    high: float
    voxels_at: tuple[float, ...] = ()
    samples_at: tuple[float, ...] = ()

    @classmethod
    def of(cls, voxels: int) -> Line:
        """Every voxel of the axis."""
        return cls(voxels, voxels, 0, 1.0, -0.5, voxels - 0.5)

    def cropped(self, first: int, end: int) -> Line:
        """The samples from `first` up to, not including, `end`."""
        start = self.start + self.step * first
        low, high = start - self.step / 2, start + self.step * (end - first - 0.5)
        return replace(self, samples=end - first, start=start, low=max(self.low, low), high=min(self.high, high))

    def centred(self, samples: int, step: float = 1.0) -> Line:
        """So many samples about the middle of the axis, `step` voxels apart.

        With the step 1 they are voxels: of an odd difference half is rounded down at the start.
        """
        room = self.voxels - samples
        start = float(room // 2) if step == 1 else (self.voxels - 1 - (samples - 1) * step) / 2
        return replace(Line.of(self.voxels), samples=samples, start=start, step=step)

    @classmethod
    def evenly(cls, positions: Iterable[float], samples: int, step: float) -> Line:
        """So many samples about the middle of unevenly spaced voxels, `step` apart.

        Both are in mean distances of the voxels; `positions` start at 0.
        """
        at = tuple(map(float, positions))
        return replace(cls.of(len(at)).centred(samples, step), voxels_at=at)

    def then(self, other: Line) -> Line:
        """Samples of these samples, where `other` takes them."""
        if other.voxels != self.samples:
            raise ValueError(f"a line of {other.voxels} voxels cannot follow one of {self.samples} samples")
        if other.voxels_at:
            if self != Line.of(self.voxels):
                raise ValueError("unevenly spaced voxels are resampled before anything else is done along their axis")
            return other
        low, high = (self.start + self.step * edge for edge in (other.low, other.high))
        return Line(
            self.voxels,
            other.samples,
            self.start + self.step * other.start,
            self.step * other.step,
            max(self.low, low),
            min(self.high, high),
            self.voxels_at,
            other.samples_at,
        )

    @property
    def inverse(self) -> Line:
        """Where the voxels of the axis lie among the samples.

        All that was not cropped can be seen, also beyond the last samples, which need not reach to the ends of an axis.
        """
        low, high = ((edge - self.start) / self.step for edge in (self.low, self.high))
        start, step = -self.start / self.step, 1 / self.step
        return Line(self.samples, self.voxels, start, step, low, high, self.samples_at, self.voxels_at)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Where the samples are, in voxels: (samples,)."""
        return self.start + self.step * np.array(self.samples_at or np.arange(self.samples), np.float64)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which samples can be seen: (samples,)."""
        at = self.positions
        return (at >= self.low - _ROUNDING) & (at <= self.high + _ROUNDING)

    @property
    def whole(self) -> bool:
        """Whether each sample that can be seen is a voxel."""
        even = not (self.voxels_at or self.samples_at)
        return even and self.step == 1 and float(self.start).is_integer()

    @property
    def ends(self) -> tuple[int, int]:
        """The first and the last voxel of which anything can be seen."""
        low, high = self._indices(np.array([self.low, self.high]))
        first = int(np.clip(np.floor(low + 0.5 + _ROUNDING), 0, self.voxels - 1))
        return first, int(np.clip(np.ceil(high - 0.5 - _ROUNDING), first, self.voxels - 1))

    def _indices(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places along the axis as indices of voxels, with fractions."""
        if not self.voxels_at:
            return at
        places = [self.voxels_at[0] - 0.5, *self.voxels_at, self.voxels_at[-1] + 0.5]
        return np.asarray(np.interp(at, places, [-0.5, *range(self.voxels), self.voxels - 0.5]), np.float64)

    @property
    def nearest(self) -> NDArray[np.int64]:
        """The voxel nearest to each sample, of those that can be seen: (samples,)."""
        return np.clip(np.floor(self._indices(self.positions) + (0.5 + _ROUNDING)), *self.ends).astype(np.int64)

    @property
    def between(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The voxels before and behind each sample, and the share of the second; those at an end lie on one voxel."""
        at = np.clip(self._indices(self.positions), *self.ends)
        at = np.where(np.abs(at - np.rint(at)) < _ROUNDING, np.rint(at), at)
        before = np.floor(at)
        share = (at - before).astype(np.float32)
        return before.astype(np.int64), np.ceil(at).astype(np.int64), share

    @property
    def weights(self) -> NDArray[np.float32]:
        """How much of each voxel each sample takes, (samples, voxels): a triangle about it, as wide as a step.

        So it is linear interpolation, and anti-aliased where samples are further apart than voxels (as in Pillow, and
        in torch with `antialias`). Unevenly spaced voxels are interpolated linearly, and what is between them then is
        weighted by the triangle, so that a ramp stays one.
        """
        if self.voxels_at:
            return self._uneven_weights
        reach, (first, last) = max(self.step, 1.0), self.ends
        at = np.clip(self.positions, first, last) if reach == 1 else self.positions
        weights = np.clip(1 - np.abs(np.arange(self.voxels) - at[:, None]) / reach, 0, None)
        weights[:, :first] = weights[:, last + 1 :] = 0
        total = weights.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 0), np.float32)

    @property
    def _uneven_weights(self) -> NDArray[np.float32]:
        offsets = np.linspace(-self.step, self.step, _POINTS) if self.step > 1 else np.zeros(1)
        shares = 1 - np.abs(offsets) / max(self.step, 1.0)
        weights, rows = np.zeros((self.samples, self.voxels)), np.arange(self.samples)
        for offset, share in zip(offsets, shares / shares.sum(), strict=True):
            before, behind, part = replace(self, start=self.start + offset).between
            np.add.at(weights, (rows, before), share * (1 - part))
            np.add.at(weights, (rows, behind), share * part)
        return np.asarray(weights, np.float32)


@dataclass(frozen=True)
class Lattice:
    """Samples along the three axes of slices: across them, along their rows and along their columns."""

    slices: Line
    rows: Line
    columns: Line

    @classmethod
    def of(cls, grid: Sequence[int]) -> Lattice:
        """Every voxel of slices with these sizes (S, H, W)."""
        slices, rows, columns = map(Line.of, grid)
        return cls(slices, rows, columns)

    @property
    def lines(self) -> tuple[Line, Line, Line]:
        """The three axes."""
        return self.slices, self.rows, self.columns

    @property
    def grid(self) -> tuple[int, int, int]:
        """How many samples there are: (S, H, W)."""
        return self.slices.samples, self.rows.samples, self.columns.samples

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), indices of samples -> indices of voxels."""
        affine = np.diag([*(line.step for line in self.lines), 1.0])
        affine[:3, 3] = [line.start for line in self.lines]
        return affine

    def then(self, other: Lattice) -> Lattice:
        """Samples of these samples."""
        slices, rows, columns = (mine.then(its) for mine, its in zip(self.lines, other.lines, strict=True))
        return Lattice(slices, rows, columns)

    @property
    def inverse(self) -> Lattice:
        """Where the voxels lie among the samples."""
        slices, rows, columns = (line.inverse for line in self.lines)
        return Lattice(slices, rows, columns)

    def sample(self, slices: NDArray[Any], outside: NDArray[Any]) -> NDArray[Any]:
        """Take samples of slices (S, C, H, W), interpolated unless they are voxels; `outside` (C,): what is not seen.

        Of samples that are all voxels the type is kept, others are float32.
        """
        for line, axis in zip(self.lines, (0, 2, 3), strict=True):
            slices = _along(slices, line, axis)
        return _filled(slices, self.lines, (0, 2, 3), outside[:, None, None].astype(slices.dtype))

    def nearest(self, labels: NDArray[Any], outside: int) -> NDArray[Any]:
        """Take of labels (S, H, W) the value nearest to each sample; `outside`: what is not seen."""
        places = np.ix_(*(line.nearest for line in self.lines))
        return _filled(labels[places], self.lines, (0, 1, 2), np.asarray(outside, labels.dtype))


def _along(array: NDArray[Any], line: Line, axis: int) -> NDArray[Any]:
    if line == Line.of(line.voxels):
        return array
    if line.whole:
        return np.take(array, line.nearest, axis)
    taken = np.tensordot(line.weights, np.asarray(array, np.float32), (1, axis))
    return np.moveaxis(taken, 0, axis)


def _filled(array: NDArray[Any], lines: Sequence[Line], axes: Sequence[int], value: NDArray[Any]) -> NDArray[Any]:
    """The array, which may be changed, with `value` wherever a sample is not seen along one of the axes."""
    for line, axis in zip(lines, axes, strict=True):
        if not (seen := line.seen).all():
            array[(slice(None),) * axis + (~seen,)] = value
    return array
