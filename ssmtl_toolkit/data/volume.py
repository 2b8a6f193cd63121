"""What a reader returns (`Volume`, `Header`) and the slices cut along one axis (`Stack`), with the way back."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
import xxhash
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
            units (HU for CT). Of a scan in time (I, J, K, T) or (I, J, K, T, C).
        affine: (4, 4) float64, voxel indices -> mm in RAS+ (x to the right, y to the front, z upwards).
        spacing: mm between voxels along I, J, K, from the file's header.
        slice_axis: which of I, J, K the scanner stepped along (0, 1 or 2).
        notes: what was odd about the file but could be read all the same.
        replaced: how many voxels were NaN or infinite and have the smallest finite value here.
        header: the file's own NIfTI header, if it has one; it says how to write a file on the same grid.
        positions: where the slices along `slice_axis` lie if they are unevenly spaced, in mm from the first one; empty:
            they are even. Affine and spacing then hold for their mean distance, with the first and the last slice where
            they are. Slices of such a scan are refused unless a preparation makes them even (`Sliced.of`).
        files: names of the files of the slices along K, or of frames that have one slice, if each is a file of its own;
            of pictures and of DICOM.
        placed: whether the file says where its voxels lie; pictures do not.
        frames: how many frames T a scan in time has; None: it is a single volume.
        frame_ms: ms from one volume of its 4-D file to the next; 0: unknown.
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
    frames: int | None = None
    frame_ms: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no scan is, so that a mistake in a reader is found where it was made."""
        in_time = self.frames is not None
        if self.array.ndim - in_time not in (3, 4) or 0 in self.array.shape:
            raise DataError(
                f"is not a volume of slices: its shape is {self.array.shape}, three sizes are needed, and a fourth one "
                f"for channels if there are several"
            )
        if self.array.dtype.kind not in "buif":
            raise DataError(f"has voxels of type {self.array.dtype}; real numbers are needed")
        if self.affine.shape != (4, 4):
            raise DataError(f"has an affine of shape {self.affine.shape}; (4, 4) is needed")
        if not (np.isfinite(self.affine).all() and abs(np.linalg.det(self.affine[:3, :3])) > 0):
            raise DataError("has no usable affine: it is not finite or cannot be inverted; repair the header")
        if len(self.spacing) != 3 or not all(0 < mm < np.inf for mm in self.spacing):
            raise DataError(f"has a spacing of {tuple(self.spacing)} mm; three lengths above 0 are needed")
        if self.slice_axis not in (0, 1, 2):
            raise DataError(f"has {self.slice_axis!r} as its slice axis; 0, 1 or 2 is needed")
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
    def sizes(self) -> tuple[int, ...]:
        """The shape of a map with one value for each voxel: (I, J, K), or (I, J, K, T) in time."""
        return self.shape if self.frames is None else (*self.shape, self.frames)

    @property
    def by_channel(self) -> NDArray[Any]:
        """The voxels as (C, I, J, K) or (C, I, J, K, T); a view."""
        return np.moveaxis(self.array.reshape(*self.sizes, -1), -1, 0)

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self.by_channel)

    @property
    def digest(self) -> str:
        """Of values and shape: equal for equal voxels, whatever the file."""
        total = xxhash.xxh3_128(str(self.array.shape).encode())
        for plane in np.moveaxis(self.array, -1, 0):
            total.update(np.ascontiguousarray(plane, np.float32).data)
        return str(total.hexdigest())

    def without_voxels(self) -> Header:
        """What a header would say of this volume."""
        place = (self.shape, self.affine, self.spacing, self.slice_axis, self.notes)
        return Header(
            *place,
            channels=self.channels,
            dtype=self.array.dtype.name,
            positions=self.positions,
            placed=self.placed,
            frames=self.frames,
            frame_ms=self.frame_ms,
        )

    def axis(self, wanted: Cut) -> Axis:
        """Resolve `acquisition` to the anatomical axis nearest to the one that the scanner stepped along.

        `time` is the same: the axis of the positions.
        """
        if wanted == "acquisition" or wanted == "time":
            return acquired_axis(self.affine, self.slice_axis)
        return wanted


@dataclass(frozen=True)
class Header:
    """What a file says of its voxels, known without reading them.

    Attributes:
        shape: how many voxels there are along I, J, K.
        affine, spacing, slice_axis, notes, positions, placed, frames, frame_ms: as in `Volume`.
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
    frames: int | None = None
    frame_ms: float = 0.0

    def empty(self) -> Volume:
        """A volume of zeros on the same grid that takes no memory, for code that needs the grid alone."""
        frames = () if self.frames is None else (self.frames,)
        sizes = (*self.shape, *frames, *((self.channels,) if self.channels > 1 else ()))
        zeros = np.broadcast_to(np.zeros((), np.uint8), sizes)
        grid = (self.affine, self.spacing, self.slice_axis, self.notes)
        return Volume(
            zeros, *grid, positions=self.positions, placed=self.placed, frames=self.frames, frame_ms=self.frame_ms
        )


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
    world = _orientation(affine)[slice_axis, 0]
    if np.isnan(world):
        raise DataError("the affine does not say which way the slices lie; choose --axis axial, coronal or sagittal")
    return _AXIS_OF_WORLD[int(world)]


def _orientation(affine: NDArray[Any]) -> NDArray[np.float64]:
    """nibabel's `io_orientation` of an affine, looked up: scans of one scanner share theirs."""
    return _orientation_of(np.asarray(affine, np.float64).tobytes())


@functools.lru_cache(maxsize=64)
def _orientation_of(affine: bytes) -> NDArray[np.float64]:
    orientation: NDArray[np.float64] = nib.orientations.io_orientation(np.frombuffer(affine).reshape(4, 4))
    orientation.flags.writeable = False
    return orientation


@dataclass(frozen=True)
class Stack:
    """The slices of a volume along one anatomical axis; in time the frames at each position, position after position.

    Attributes:
        slices: (S, C, H, W), ordered and turned as `DIRECTIONS[axis]` says, whatever the order in the file.
        affine: (4, 4), indices of `slices` -> mm in RAS+; in time those of the positions.
        spacing: mm between slices, rows and columns; in time the first is ms between frames, 0 if unknown.
        axis: the anatomical axis, in time that of the positions.
        source: orientation of the file's own axes, for `back`.
        positions: where slices, rows and columns lie along their axes if they are unevenly spaced, in mm from the first
            one; empty: they are even. Affine and spacing are as in `Volume.positions`. In time those of the slices are
            not needed.
        frames: how many slices each position has in time, where S is the number of positions times this; None: the
            slices are one sequence.
    """

    slices: NDArray[Any]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    axis: Axis
    source: NDArray[np.float64]
    positions: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]] = ((), (), ())
    frames: int | None = None

    @classmethod
    def of(cls, volume: Volume, wanted: Cut) -> Stack:
        """Cut `volume` along `wanted`, without resampling: axes are only permuted and flipped.

        Raises:
            DataError: it is in time and `wanted` is not, or the other way round.
        """
        if (wanted == "time") != (volume.frames is not None):
            raise DataError(f"cannot be cut along --axis {wanted}: it is {_kind(volume)}; choose another --axis")
        axis = volume.axis(wanted)
        source = _orientation(volume.affine)
        turn = nib.orientations.ornt_transform(source, nib.orientations.axcodes2ornt(DIRECTIONS[axis]))
        turned = nib.orientations.apply_orientation(np.moveaxis(volume.by_channel, 0, -1), turn)
        affine = volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)
        order, frames = np.argsort(turn[:, 0]), volume.frames
        between, rows, columns = (float(volume.spacing[i]) for i in order)
        positions = [volume.positions if i == volume.slice_axis and frames is None else () for i in order]
        along = [mirrored(mm) if turn[i, 1] < 0 else mm for mm, i in zip(positions, order, strict=True)]
        spacing = (between if frames is None else volume.frame_ms, rows, columns)
        slices = np.moveaxis(_in_sequence(turned, frames), -1, 1)
        return cls(slices, affine, spacing, axis, source, (along[0], along[1], along[2]), frames)

    @property
    def along(self) -> str:
        """What the slices of a sequence follow along: the anatomical axis, or time."""
        return self.axis if self.frames is None else "time"

    @property
    def grid(self) -> tuple[int, int, int]:
        """The number of slices, and their rows and columns: (S, H, W)."""
        number, _, height, width = self.slices.shape
        return number, height, width

    def neighbours(self, offset: int) -> NDArray[np.int64]:
        """For each slice the number of the one so far behind it in its sequence, whose ends are repeated: (S,)."""
        number = len(self.slices)
        length = self.frames or number
        start, index = np.divmod(np.arange(number), length)
        return np.asarray(start * length + (index + offset).clip(0, length - 1))

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cut an array (I, J, K, …) on the file's own grid, such as a label map, as the volume was: (S, H, W, …).

        In time it is (I, J, K, T, …).
        """
        turn = nib.orientations.ornt_transform(self.source, nib.orientations.axcodes2ornt(DIRECTIONS[self.axis]))
        return _in_sequence(np.asarray(nib.orientations.apply_orientation(array, turn)), self.frames)

    def back(self, slices: NDArray[Any]) -> NDArray[Any]:
        """Put an array (S, H, W, …) back on the file's own grid (I, J, K, …): what `cut` does, undone."""
        if slices.shape[:3] != self.grid:
            raise ValueError(f"expected slices of shape {self.grid}, got {slices.shape}")
        if self.frames is not None:
            slices = np.moveaxis(slices.reshape(-1, self.frames, *slices.shape[1:]), 1, 3)
        here = nib.orientations.axcodes2ornt(DIRECTIONS[self.axis])
        return np.asarray(
            nib.orientations.apply_orientation(slices, nib.orientations.ornt_transform(here, self.source))
        )


def _in_sequence(slices: NDArray[Any], frames: int | None) -> NDArray[Any]:
    """Put the frames of slices (S, H, W, T, …) at one position behind each other: (S x T, H, W, …)."""
    if frames is None:
        return slices
    in_order = np.moveaxis(slices, 3, 1)
    return in_order.reshape(-1, *in_order.shape[2:])


def _kind(volume: Volume) -> str:
    return "a single volume" if volume.frames is None else "a scan in time"


def on_axis(voxels: NDArray[Any], axis: Axis, spacing: tuple[float, float, float]) -> Volume:
    """Make a volume of slices (S, H, W) or (S, H, W, C) that lie as `DIRECTIONS[axis]` says; `spacing` in mm."""
    turn = nib.orientations.axcodes2ornt(DIRECTIONS[axis])
    affine = np.zeros((4, 4))
    for index, (world, flip) in enumerate(turn):
        affine[int(world), index] = flip * spacing[index]
    affine[3, 3] = 1.0
    return Volume(voxels, affine, spacing, slice_axis=0)
