"""What a reader returns (`Volume`, `Header`) and the slices cut along one axis (`Stack`), with the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.slicing import Axis, Cut
from ssmtl_toolkit.errors import DataError

# Where (slices, rows, columns) go for each anatomical axis: axial slices run upwards, their rows to the back,
# their columns to the patient's left, so that a picture looks as radiologists print it.
DIRECTIONS: dict[Axis, tuple[str, str, str]] = {
    "axial": ("S", "P", "L"),
    "coronal": ("P", "I", "L"),
    "sagittal": ("L", "I", "P"),
}
_AXIS_OF_WORLD: tuple[Axis, Axis, Axis] = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Volume:
    """A scan as its file stores it.

    Attributes:
        array: voxels (I, J, K), or (I, J, K, C) of several channels, any real dtype, already scaled to the scan's own
            units (HU for CT).
        affine: (4, 4) float64, voxel indices -> mm in RAS+ (x to the right, y to the front, z upwards).
        spacing: mm between voxels along I, J, K, from the file's header.
        slice_axis: which of I, J, K the scanner stepped along (0, 1 or 2).
        notes: what was odd about the file but could be read all the same.
        replaced: how many voxels were NaN or infinite and have the smallest finite value here.
        header: the file's own NIfTI header, if it has one; it says how to write a file on the same grid.
        positions: where the slices along `slice_axis` lie if they are unevenly spaced, in mm from the first one; empty:
            they are even. Affine and spacing then hold for their mean distance, with the first and the last slice where
            they are. Slices of such a scan are refused unless a preparation makes them even (`Sliced.of`).
        files: names of the files of the slices along K, if each is a file of its own; of pictures and of DICOM.
        placed: whether the file says where its voxels lie; pictures do not.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    slice_axis: int = 2
    notes: tuple[str, ...] = field(default=())
    replaced: int = 0
    header: nib.Nifti1Header | None = None
    positions: tuple[float, ...] = field(default=())
    files: tuple[str, ...] = ()
    placed: bool = True

    def __post_init__(self) -> None:
        """Refuse what no scan is, so that a mistake in a reader is found where it was made."""
        if self.array.ndim not in (3, 4) or 0 in self.array.shape:
            raise DataError(
                f"is not a volume of slices: its shape is {self.array.shape}, three sizes are needed, and a fourth one "
                f"for channels if there are several"
            )
        if not (np.isfinite(self.affine).all() and abs(np.linalg.det(self.affine[:3, :3])) > 0):
            raise DataError("has no usable affine: it is not finite or cannot be inverted; repair the header")
        if self.positions and len(self.positions) != self.shape[self.slice_axis]:
            raise DataError(
                f"has {len(self.positions)} positions for {self.shape[self.slice_axis]} slices; give one for each"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many voxels there are along I, J, K, whatever the number of channels."""
        i, j, k = self.array.shape[:3]
        return i, j, k

    @property
    def by_channel(self) -> NDArray[Any]:
        """The voxels as (C, I, J, K); a view."""
        return np.moveaxis(self.array.reshape(*self.shape, -1), -1, 0)

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self.by_channel)

    def without_voxels(self) -> Header:
        """What a header would say of this volume."""
        place = (self.shape, self.affine, self.spacing, self.slice_axis, self.notes)
        return Header(
            *place, channels=self.channels, dtype=self.array.dtype.name, positions=self.positions, placed=self.placed
        )

    def axis(self, wanted: Cut) -> Axis:
        """Resolve `acquisition` to the anatomical axis nearest to the one that the scanner stepped along."""
        return acquired_axis(self.affine, self.slice_axis) if wanted == "acquisition" else wanted


@dataclass(frozen=True)
class Header:
    """What a file says of its voxels, known without reading them.

    Attributes:
        shape: how many voxels there are along I, J, K.
        affine, spacing, slice_axis, notes, positions, placed: as in `Volume`.
        channels: how many values a voxel has.
        volumes: of a 4-D file, how many volumes it holds.
        dtype: type of the stored values, as numpy calls it; "" if unknown.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    slice_axis: int = 2
    notes: tuple[str, ...] = field(default=())
    channels: int = 1
    volumes: int = 1
    dtype: str = ""
    positions: tuple[float, ...] = field(default=())
    placed: bool = True

    def empty(self) -> Volume:
        """A volume of zeros on the same grid that takes no memory, for code that needs the grid alone."""
        sizes = self.shape if self.channels == 1 else (*self.shape, self.channels)
        zeros = np.broadcast_to(np.zeros((), np.uint8), sizes)
        place = (self.affine, self.spacing, self.slice_axis, self.notes)
        return Volume(zeros, *place, positions=self.positions, placed=self.placed)


def stepped_axis(spacing: tuple[float, ...], named: int | None = None) -> int:
    """Which voxel axis the scanner stepped along: as named, else one spaced 1.5 times as wide as the others, or 2."""
    if named is not None:
        return int(named)
    widest = int(np.argmax(spacing))
    others = max(s for axis, s in enumerate(spacing) if axis != widest)
    return widest if spacing[widest] > 1.5 * others else 2


def mirrored(positions: tuple[float, ...]) -> tuple[float, ...]:
    """Positions of slices counted from the other end."""
    return tuple(positions[-1] - mm for mm in reversed(positions))


def acquired_axis(affine: NDArray[np.float64], slice_axis: int) -> Axis:
    """The anatomical axis nearest to voxel axis `slice_axis`.

    Raises:
        DataError: the affine does not say.
    """
    world = nib.orientations.io_orientation(affine)[slice_axis, 0]
    if np.isnan(world):
        raise DataError("the affine does not say which way the slices lie; choose --axis axial, coronal or sagittal")
    return _AXIS_OF_WORLD[int(world)]


@dataclass(frozen=True)
class Stack:
    """The slices of a volume along one anatomical axis.

    Attributes:
        slices: (S, C, H, W), ordered and turned as `DIRECTIONS[axis]` says, whatever the order in the file.
        affine: (4, 4), indices of `slices` -> mm in RAS+.
        spacing: mm between slices, rows and columns.
        axis: the anatomical axis.
        source: orientation of the file's own axes, for `back`.
        positions: where slices, rows and columns lie along their axes if they are unevenly spaced, in mm from the first
            one; empty: they are even. Affine and spacing are as in `Volume.positions`.
    """

    slices: NDArray[Any]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    axis: Axis
    source: NDArray[np.float64]
    positions: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]] = ((), (), ())

    @classmethod
    def of(cls, volume: Volume, wanted: Cut) -> Stack:
        """Cut `volume` along `wanted`, without resampling: axes are only permuted and flipped."""
        axis = volume.axis(wanted)
        source = nib.orientations.io_orientation(volume.affine)
        turn = nib.orientations.ornt_transform(source, nib.orientations.axcodes2ornt(DIRECTIONS[axis]))
        voxels = np.moveaxis(volume.by_channel, 0, -1)
        slices = np.moveaxis(nib.orientations.apply_orientation(voxels, turn), -1, 1)
        affine = volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)
        order = np.argsort(turn[:, 0])
        spacing = tuple(float(volume.spacing[i]) for i in order)
        positions = [volume.positions if i == volume.slice_axis else () for i in order]
        along = [mirrored(mm) if turn[i, 1] < 0 else mm for mm, i in zip(positions, order, strict=True)]
        place = ((spacing[0], spacing[1], spacing[2]), axis, source, (along[0], along[1], along[2]))
        return cls(slices, affine, *place)

    @property
    def grid(self) -> tuple[int, int, int]:
        """The number of slices, and their rows and columns: (S, H, W)."""
        number, _, height, width = self.slices.shape
        return number, height, width

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cut an array (I, J, K, …) on the file's own grid, such as a label map, as the volume was: (S, H, W, …)."""
        turn = nib.orientations.ornt_transform(self.source, nib.orientations.axcodes2ornt(DIRECTIONS[self.axis]))
        return np.asarray(nib.orientations.apply_orientation(array, turn))

    def back(self, slices: NDArray[Any]) -> NDArray[Any]:
        """Put an array (S, H, W, …) back on the file's own grid (I, J, K, …): what `cut` does, undone."""
        if slices.shape[:3] != self.grid:
            raise ValueError(f"expected slices of shape {self.grid}, got {slices.shape}")
        here = nib.orientations.axcodes2ornt(DIRECTIONS[self.axis])
        return np.asarray(
            nib.orientations.apply_orientation(slices, nib.orientations.ornt_transform(here, self.source))
        )
