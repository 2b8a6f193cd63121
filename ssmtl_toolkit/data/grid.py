"""Whether two volumes lie on the same grid: label maps on that of their scan, channels on that of the first one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import nibabel as nib
import numpy as np

from ssmtl_toolkit.data.volume import Volume
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
    if image.shape != label.shape:
        raise DataError(
            f"{where}: has {_by(label.shape)} voxels, {reference} has {_by(image.shape)}; "
            f"give the one on the same grid as {reference}, or resample it by nearest neighbour"
        )
    distance = _distance(image, label)
    if distance <= _ROUNDING:
        return None
    said = f"by the affines it lies up to {distance:.3g} mm away from {reference}"
    if distance > _MOVED * min(image.spacing) and not ignore_affine:
        raise DataError(
            f"{where}: {said} (voxels are {_by(image.spacing)} mm); fix the one that is wrong, "
            f"or compare them voxel by voxel anyway by --ignore-affine"
        )
    return f"{said}; taken voxel by voxel"


def check_channel(first: Volume, other: Volume, where: str, reference: str) -> str | None:
    """Compare the grid of one more channel, from the file `where`, with that of the first, from the file `reference`.

    Returns:
        What is worth a note: a distance above 0.001 mm that is accepted.

    Raises:
        DataError: naming both files: their shapes differ, or their affines or spacings by more than a tenth of the
            smallest voxel spacing.
    """
    todo = "the channels of a scan lie on one grid: resample one of the files onto that of the other"
    if first.shape != other.shape:
        raise DataError(f"{where}: has {_by(other.shape)} voxels, {reference} has {_by(first.shape)}; {todo}")
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


def _distance(one: Volume, other: Volume) -> float:
    """The largest distance of the 8 corner voxels under both affines, in mm."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(one.shape) - 1)
    moved = nib.affines.apply_affine(one.affine, corners) - nib.affines.apply_affine(other.affine, corners)
    return float(np.linalg.norm(moved, axis=1).max())


def _by(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.6g}" for size in sizes)
