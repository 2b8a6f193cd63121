"""From a DICOM structure set (RTSTRUCT) to a label map: contours filled on the slices of its scan."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ssmtl_formats import labels
from ssmtl_formats.fields import whole
from ssmtl_formats.headers import quiet
from ssmtl_formats.labels import Segment, header, items, text
from ssmtl_formats.overlaps import Voxels
from ssmtl_formats.polygons import filled
from ssmtl_toolkit.data.geometry import LPS_TO_RAS
from ssmtl_toolkit.data.grid import voxels_at
from ssmtl_toolkit.data.source import AGAIN, FileError, naming_file
from ssmtl_toolkit.data.volume import Volume

_FILLED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_OTHERS = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
_FLAT = 0.1  # slices: a contour that leaves its plane by more is not drawn on slices
_OFF = 0.1  # slices: contours that are further from their slice are noted
_FARTHEST = 1e6  # mm
_ACROSS = "has contours that are not drawn on the slices of its image; give the scan that they were drawn on"
_TAGS = ("StructureSetROISequence", "ROIContourSequence", "SOPClassUID")

Contour = NDArray[np.float64]
"""Points (N, 3), in mm in RAS+."""


def read_contours(file: Path, image: Volume) -> Volume:
    """Fill the contours of a structure set on the slices of the scan that was read as `image`.

    A voxel belongs to a structure if its centre lies within an odd number of its contours in that plane, so that a
    contour within another one is a hole.

    Raises:
        DataError: naming the file: it is damaged, or its contours are not drawn on the slices of the scan.
    """
    with naming_file(file):
        data = header(file, _TAGS)
        skipped: Counter[str] = Counter()
        contours = _contours(data, skipped)
        found = _structures(data, contours)
        drawing = _Drawing(image)
        voxels = {segment.number: drawing.fill(contours[segment.number]) for segment in found}
        notes = [f"contours that enclose nothing are skipped: {count} {kind}" for kind, count in skipped.items()]
        return labels.label_map(image, found, voxels, notes + drawing.notes())


def classes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Name the structures that have contours, with their values.

    Raises:
        DataError: naming the file, which is damaged.
    """
    with naming_file(file):
        data = header(file, _TAGS)
        return labels.classes_of(_structures(data, _contours(data, Counter())))


def _structures(data: Dataset, contours: dict[int, list[Contour]]) -> list[Segment]:
    """The structures that have contours, in the order of the file."""
    names: dict[int, str] = {}
    for item in items(data, "StructureSetROISequence"):
        number = whole(item, "ROINumber")
        if number is not None and contours.get(number):
            names[number] = text(item, "ROIName", f"Structure_{number}")
    if unknown := {number for number, own in contours.items() if own} - names.keys():
        raise FileError(f"has contours of structure {min(unknown)}, which it does not describe; {AGAIN}")
    if not names:
        raise FileError("has no closed contours; export the structures with their contours")
    return labels.segments(list(names), list(names.values()))


def _contours(data: Dataset, skipped: Counter[str]) -> dict[int, list[Contour]]:
    """The closed contours of each structure; others are counted in `skipped`."""
    contours: dict[int, list[Contour]] = defaultdict(list)
    for item in items(data, "ROIContourSequence"):
        number = whole(item, "ReferencedROINumber")
        if number is None:
            raise FileError(f"has contours of no structure; {AGAIN}")
        for contour in items(item, "ContourSequence"):
            kind = text(contour, "ContourGeometricType", "CLOSED_PLANAR")
            points = _points(contour)
            if kind not in _FILLED:
                skipped[kind if kind in _OTHERS else "of unknown kind"] += 1
            elif len(points) < 3:
                skipped["of fewer than 3 points"] += 1
            else:
                contours[number].append(points)
    return contours


def _points(contour: Dataset) -> Contour:
    """Read points (N, 3); as text, since pydicom's numbers take ten times as long."""
    with quiet():
        raw = contour.get_item("ContourData")
    value = b"" if raw is None or not raw.value else raw.value
    try:
        texts = value.decode("ascii").strip("\0 ").split("\\") if isinstance(value, bytes) else value
        flat = np.array([number for number in texts if number != ""], np.float64)
    except (TypeError, ValueError):
        raise FileError(f"has a contour whose points are not numbers; {AGAIN}") from None
    if len(flat) % 3 or not np.isfinite(flat).all() or (len(flat) and abs(flat).max() > _FARTHEST):
        raise FileError(f"has a contour of {len(flat)} numbers, of which three finite ones make a point; {AGAIN}")
    return flat.reshape(-1, 3) @ LPS_TO_RAS[:3, :3]


class _Drawing:
    """Fills contours on the slices of a scan."""

    def __init__(self, image: Volume) -> None:
        self._image = image
        self._axis: int | None = None
        self._off = self._outside = 0
        self._farthest = 0.0

    def fill(self, contours: Sequence[Contour]) -> list[Voxels]:
        """Return the voxels within the contours of one structure.

        Raises:
            FileError: a contour does not lie in a slice.
        """
        planes: dict[tuple[int, float], list[NDArray[np.float64]]] = defaultdict(list)
        for contour in contours:
            indices = voxels_at(self._image, contour)
            axis = self._axis = self._slice_axis(indices) if self._axis is None else self._axis
            if np.ptp(indices[:, axis]) > _FLAT:
                raise FileError(_ACROSS)
            level = float(indices[:, axis].mean())
            number = round(level)
            if not 0 <= number < self._image.shape[axis]:
                self._outside += 1
                continue
            self._off += abs(level - number) > _OFF
            self._farthest = max(self._farthest, abs(level - number))
            planes[number, round(level, 2)].append(np.delete(indices, axis, axis=1))
        return [self._voxels(number, polygons) for (number, _), polygons in planes.items()]

    def _slice_axis(self, indices: NDArray[np.float64]) -> int:
        """Which of I, J, K the contours are drawn across: that of the slices, if they lie in its planes."""
        flat = [axis for axis in (self._image.slice_axis, 0, 1, 2) if np.ptp(indices[:, axis]) <= _FLAT]
        if not flat:
            raise FileError(_ACROSS)
        return flat[0]

    def _voxels(self, number: int, polygons: Sequence[NDArray[np.float64]]) -> Voxels:
        axis, shape = self._axis or 0, self._image.shape
        corners = np.concatenate(polygons)
        first = np.clip(np.floor(corners.min(axis=0)), 0, np.delete(shape, axis)).astype(int)
        last = np.clip(np.ceil(corners.max(axis=0)) + 1, first, np.delete(shape, axis)).astype(int)
        mask = filled([polygon - first for polygon in polygons], (last - first).tolist())
        steps = np.delete(np.eye(3, dtype=int), axis, axis=0)
        return labels.voxels_of(shape, np.insert(first, axis, number), steps, mask)[0]

    def notes(self) -> list[str]:
        """What was odd."""
        notes = []
        if self._outside:
            notes.append(f"{self._outside} contours lie outside of its image and are skipped")
        if self._off:
            notes.append(
                f"{self._off} contours lie between the slices of its image (up to {self._farthest:.2g} of their "
                f"distance off) and are drawn on the nearest one"
            )
        return notes
