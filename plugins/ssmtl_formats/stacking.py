"""Slices ordered by their positions in space, never by names or numbers, and the grid that they lie on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmtl_formats.headers import Frame
from ssmtl_formats.volumes import divided
from ssmtl_toolkit.data.geometry import LPS_TO_RAS, shear, usable
from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.data.uneven import gaps_of
from ssmtl_toolkit.data.values import volume_index

_SAME_DIRECTION = 1e-3  # of direction cosines, and of pixel spacings
_SAME_PLACE = 0.02  # pixels
_UNEVEN = 0.05  # of the distance: greater deviations are no even spacing
_ROUNDING = 0.001  # of the distance: smaller deviations are not worth a note


def stacked(frames: Sequence[Frame], volume: int | None, notes: list[str]) -> list[Frame]:
    """Order the frames of one volume along the normal of their plane; of several volumes `volume` chooses.

    Raises:
        FileError: as `volumes_of`, or it was not chosen.
    """
    volumes = volumes_of(frames, notes)
    return volumes[volume_index(len(volumes), volume)]


def volumes_of(frames: Sequence[Frame], notes: list[str], *, films: bool = False) -> list[list[Frame]]:
    """Order the frames of each volume along the normal of their plane.

    If every position has the same number of images, they are volumes (echoes, b-values, times), in the order of these.
    All images may lie at one position if `films` are volumes of one slice each.

    Raises:
        FileError: they differ in size, spacing or orientation, some positions have more images than others, or nothing
            tells the volumes apart.
    """
    _check_alike(frames)
    frames = _without_copies(frames, notes)
    near = _SAME_PLACE * min(frames[0].pixel)
    rows = np.array(frames[0].directions).reshape(2, 3)
    along = np.array([frame.position for frame in frames]) @ np.cross(rows[0], rows[1])
    places: list[list[Frame]] = []
    last = -np.inf
    for i in np.argsort(along, kind="stable"):
        if along[i] - last > near:
            places.append([])
            last = along[i]
        places[-1].append(frames[i])
    if len(places) == 1 and not films:
        raise FileError(
            f"has {len(frames)} images, all at one position: a film, not a volume; give another series, or learn from "
            f"its frames by --axis time"
        )
    counts = {len(place) for place in places}
    if len(counts) > 1:
        at = next(place for place in places if len(place) == max(counts))[0]
        raise FileError(
            f"has {min(counts)} to {max(counts)} images at one position ({max(counts)} at {_at(at.position)} mm): "
            f"several series in one, or an incomplete one; export it again"
        )
    return divided(places, notes)


def _check_alike(frames: Sequence[Frame]) -> None:
    first = frames[0]
    for frame in frames[1:]:
        if frame.size != first.size:
            sizes = f"{first.size[0]} x {first.size[1]} and {frame.size[0]} x {frame.size[1]}"
            raise FileError(f"has images of different sizes ({sizes} pixels) in one series; export them as two series")
        for name, value, expected in (
            ("orientations", frame.directions, first.directions),
            ("pixel spacings", frame.pixel, first.pixel),
        ):
            if np.abs(np.subtract(value, expected)).max() > _SAME_DIRECTION:
                raise FileError(f"has images of different {name} in one series; export them as two series")


def _without_copies(frames: Sequence[Frame], notes: list[str]) -> list[Frame]:
    """Drop files that declare themselves to be the same image, at the same position and time."""
    kept: dict[tuple[object, ...], Frame] = {}  # some anonymisers give all images one UID: it is not enough
    for i, frame in enumerate(frames):
        kept.setdefault(
            (frame.instance, frame.position, frame.marks, frame.instance_number) if frame.instance else (i,), frame
        )
    if len(kept) < len(frames):
        notes.append(f"{len(frames) - len(kept)} copies of its images are skipped")
    return list(kept.values())


@dataclass(frozen=True)
class Grid:
    """Where the voxels of ordered frames lie.

    Attributes:
        affine: voxel (column, row, slice) -> mm in RAS+; a tilted gantry shears it.
        positions: of the slices, in mm from the first one, if they are unevenly spaced or some are missing; then the
            affine holds for their mean distance.
    """

    affine: NDArray[np.float64]
    positions: tuple[float, ...] = ()


def grid(frames: Sequence[Frame], notes: list[str]) -> Grid:
    """Return the grid of ordered frames: the even spacing that fits their positions best (least squares).

    Raises:
        FileError: slices are shifted sideways, or the orientation cannot be used.
    """
    positions = np.array([frame.position for frame in frames])
    row, column = np.array(frames[0].directions).reshape(2, 3)
    number = np.arange(len(frames)) - (len(frames) - 1) / 2
    normal = np.cross(row, column)
    step = number @ positions / (number @ number) if len(frames) > 1 else normal * frames[0].thickness
    first = positions.mean(axis=0) + number[0] * step
    affine = np.eye(4)
    affine[:3, 0] = row * frames[0].pixel[1]
    affine[:3, 1] = column * frames[0].pixel[0]
    affine[:3, 2] = step
    affine[:3, 3] = first
    lengths = np.linalg.norm([row, column], axis=1)
    if not usable(affine) or abs(lengths - 1).max() > 0.01 or abs(row @ column) > 0.01 or min(frames[0].pixel) <= 0:
        raise FileError("has an orientation or a pixel spacing that cannot be used; export the series again")
    if len(frames) == 1:
        return Grid(LPS_TO_RAS @ affine)
    deviation = np.linalg.norm(positions - first - np.outer(np.arange(len(frames)), step), axis=1).max()
    distance = float(np.linalg.norm(step))
    along: tuple[float, ...] = ()
    if deviation > _UNEVEN * distance or len(gaps_of(positions @ np.cross(row, column))):
        affine, along = _unevenly(affine, positions)
    elif deviation > max(_ROUNDING * distance, 1e-4):
        notes.append(f"its slices lie up to {deviation:.2g} mm off an even spacing of {distance:.4g} mm")
    if sheared := shear(affine):
        notes.append(f"{sheared} (a tilted gantry)")
    return Grid(LPS_TO_RAS @ affine, along)


def _unevenly(
    affine: NDArray[np.float64], positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Place unevenly spaced slices on the line through the first and the last one.

    Raises:
        FileError: they do not lie on a line.
    """
    line = positions[-1] - positions[0]
    length = float(np.linalg.norm(line))
    along = (positions - positions[0]) @ line / length
    aside = float(np.linalg.norm(positions - positions[0] - np.outer(along, line / length), axis=1).max())
    usual = float(np.median(np.diff(along)))
    if aside > _UNEVEN * usual:
        raise FileError(f"has slices up to {aside:.3g} mm aside of the others, {usual:.4g} mm apart; export it again")
    affine = affine.copy()
    affine[:3, 2], affine[:3, 3] = line / (len(positions) - 1), positions[0]
    return affine, tuple(along.tolist())


def _at(position: Sequence[float]) -> str:
    return "(" + ", ".join(f"{x:.6g}" for x in position) + ")"
