"""Whether two volumes lie on the same grid: label maps on that of their scan, channels on that of the first one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.volume import Volume, mirrored
from ssmtl_toolkit.errors import DataError

_MOVED = 0.1  # of a voxel: grids that are further apart than this are not the same
_ROUNDING = 1e-3  # mm


def turned(other: Volume, reference: Volume) -> Volume:
    """Bring the axes of `other` into the order and direction of those of `reference`, without resampling.

    Converters store the same grid in different orders: DICOM by dcm2niix has its rows from front to back, by ITK from
    back to front. Where the orders agree already, `other` is returned as it is.
    """
    here, there = (nib.orientations.io_orientation(volume.affine) for volume in (other, reference))
    if np.isnan(here).any() or np.isnan(there).any() or np.array_equal(here, there):
        return other
    turn = nib.orientations.ornt_transform(here, there)
    order = np.argsort(turn[:, 0])
    spacing = tuple(float(other.spacing[i]) for i in order)
    return replace(
        other,
        array=nib.orientations.apply_orientation(other.array, turn),
        affine=other.affine @ nib.orientations.inv_ornt_aff(turn, other.shape),
        spacing=(spacing[0], spacing[1], spacing[2]),
        slice_axis=int(turn[other.slice_axis, 0]),
        header=None,
        positions=mirrored(other.positions) if turn[other.slice_axis, 1] < 0 else other.positions,
    )


def check_grid(
    image: Volume, label: Volume, where: str, ignore_affine: bool = False, reference: str = "its image"
) -> str | None:
    """Compare the grid of `label` with that of `image`, which is called `reference` in messages.

    Returns:
        What is worth a note: a distance above 0.001 mm that is accepted.

    Raises:
        DataError: naming `where`: the shapes differ, or, unless `ignore_affine`, the distance is more than a tenth of
            the smallest voxel spacing.
    """
    if image.sizes != label.sizes:
        raise DataError(
            f"{where}: has {_by(label.sizes)} voxels, {reference} has {_by(image.sizes)}; "
            f"give the one on the same grid as {reference}, or resample it by nearest neighbour"
        )
    distance = _distance(image, label)
    if distance <= _ROUNDING:
        return None
    distance_text = f"by the affines it lies up to {distance:.3g} mm away from {reference}"
    if distance > _MOVED * min(image.spacing) and not ignore_affine:
        raise DataError(
            f"{where}: {distance_text} (voxels are {_by(image.spacing)} mm); fix the one that is wrong, "
            f"or compare them voxel by voxel with --ignore-affine"
        )
    return f"{distance_text}; compared voxel by voxel"


def check_channel(first: Volume, other: Volume, where: str, reference: str) -> str | None:
    """Compare the grid of one more channel, from the file `where`, with that of the first, from the file `reference`.

    Returns:
        What is worth a note: a distance above 0.001 mm that is accepted.

    Raises:
        DataError: naming both files: their shapes differ, or their affines or spacings by more than a tenth of the
            smallest voxel spacing.
    """
    todo = "the channels of a scan lie on one grid: resample one of the files onto that of the other"
    if first.sizes != other.sizes:
        raise DataError(f"{where}: has {_by(other.sizes)} voxels, {reference} has {_by(first.sizes)}; {todo}")
    most = _MOVED * min(first.spacing)
    longer = [abs(a - b) * n for a, b, n in zip(other.spacing, first.spacing, first.shape, strict=True)]
    if max(longer) > most:
        raise DataError(
            f"{where}: has voxels of {_by(other.spacing)} mm, {reference} has {_by(first.spacing)} mm; {todo}"
        )
    distance = _distance(first, other)
    if distance > most:
        raise DataError(f"{where}: by the affines it lies up to {distance:.3g} mm away from {reference}; {todo}")
    return f"by the affines it lies up to {distance:.3g} mm away from {reference}" if distance > _ROUNDING else None


def voxels_at(image: Volume, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where points (N, 3), in mm in RAS+, lie among the voxels of `image`: (N, 3), I, J, K, with fractions.

    Unevenly spaced slices count where they are.
    """
    indices: NDArray[np.float64] = nib.affines.apply_affine(np.linalg.inv(image.affine), points)
    if image.positions:
        axis, true = image.slice_axis, np.array(image.positions)
        count = len(true)
        along = indices[:, axis] * true[-1] / (count - 1)
        ends = np.concatenate([[2 * true[0] - true[1]], true, [2 * true[-1] - true[-2]]])
        indices[:, axis] = np.interp(along, ends, np.arange(-1, count + 1))
    return indices


def placed(label: Volume, image: Volume) -> Volume:
    """Put a label map that covers a part of the grid of `image`, or more, onto the whole of it; elsewhere it is 0.

    Raises:
        DataError: its voxels are others: they lie more than a tenth of a voxel off.
    """
    label = turned(label, image)
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(label.shape) - 1)
    there = voxels_at(image, nib.affines.apply_affine(label.affine, corners))
    start = np.rint(there[0]).astype(int)
    off = float(np.abs(there - start - corners).max())
    if off > _MOVED:
        raise DataError(
            f"lies up to {off:.2g} voxels off the grid of its image (voxels of {_by(label.spacing)} mm, those of the "
            f"image {_by(image.spacing)} mm); resample it onto that grid by nearest neighbour"
        )
    if not start.any() and label.shape == image.shape:
        return label
    array = np.zeros((*image.shape, *label.array.shape[3:]), label.array.dtype)
    ends = zip(start.tolist(), label.shape, image.shape, strict=True)
    inside = [(max(at, 0), min(at + count, size), at) for at, count, size in ends]
    notes = label.notes
    if all(first < last for first, last, _ in inside):
        part = label.array[tuple(slice(first - at, last - at) for first, last, at in inside)]
        array[tuple(slice(first, last) for first, last, _ in inside)] = part
    if lost := int(np.count_nonzero(label.array)) - int(np.count_nonzero(array)):
        notes = (*notes, f"{lost} labelled voxels lie outside of its image and are skipped")
    return replace(
        label,
        array=array,
        affine=image.affine,
        spacing=image.spacing,
        slice_axis=image.slice_axis,
        notes=notes,
        header=None,
        positions=(),
    )


def _distance(one: Volume, other: Volume) -> float:
    """The largest distance of the 8 corner voxels under both affines, in mm, or of unevenly spaced slices of both."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(one.shape) - 1)
    moved = nib.affines.apply_affine(one.affine, corners) - nib.affines.apply_affine(other.affine, corners)
    uneven = np.subtract(one.positions, other.positions) if one.positions and other.positions else np.zeros(1)
    return max(float(np.linalg.norm(moved, axis=1).max()), float(np.abs(uneven).max()))


def _by(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.6g}" for size in sizes)
