"""From a DICOM segmentation (SEG) to a label map on the grid of its scan, each frame where its position says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ssmtl_formats import labels
from ssmtl_formats.fields import numbers, whole, within
from ssmtl_formats.headers import quiet
from ssmtl_formats.labels import Segment, header, items, text
from ssmtl_formats.overlaps import Voxels
from ssmtl_formats.pixels import frames_of
from ssmtl_toolkit.data.geometry import LPS_TO_RAS
from ssmtl_toolkit.data.grid import voxels_at
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import AGAIN, FileError, naming_file
from ssmtl_toolkit.data.volume import Volume

_OFF = 0.1  # voxels: a frame that is further off lies on another grid
_TAGS = (
    *("SegmentSequence", "SegmentationType", "MaximumFractionalValue", "PerFrameFunctionalGroupsSequence", "Rows"),
    *("SharedFunctionalGroupsSequence", "NumberOfFrames", "Columns", "SOPClassUID"),
)


def read_segmentation(file: Path, image: Volume) -> Volume:
    """Read a segmentation of the scan that was read as `image`; slices without a frame are background.

    Raises:
        DataError: naming the file: it is damaged, or its frames do not lie on the grid of the scan.
    """
    with naming_file(file):
        data = header(file, _TAGS)
        found = _segments(data)
        notes: list[str] = []
        size = (whole(data, "Rows") or 0, whole(data, "Columns") or 0)
        check_memory((1, *size), np.dtype(np.uint8))
        voxels: dict[int, list[Voxels]] = {}
        lost = 0
        for plane, groups in zip(frames_of(file), _groups(data), strict=True):
            if plane.shape != size:
                raise FileError(f"has pixels of a different size than its header says; {AGAIN}")
            start, steps = _place(groups, size, image)
            for number, mask in _masks(data, groups, plane, notes):
                piece, outside = labels.voxels_of(image.shape, start, steps, mask)
                voxels.setdefault(number, []).append(piece)
                lost += outside
        if unknown := voxels.keys() - {segment.number for segment in found}:
            raise FileError(f"has voxels of segment {min(unknown)}, which it does not describe; {AGAIN}")
        if lost:
            notes.append(f"{lost} labelled voxels lie outside of its image and are skipped")
        return labels.label_map(image, found, voxels, notes)


def classes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Name the segments, with their values.

    Raises:
        DataError: naming the file, which is damaged.
    """
    with naming_file(file):
        return labels.classes_of(_segments(header(file, _TAGS)))


def _segments(data: Dataset) -> list[Segment]:
    described = [(whole(item, "SegmentNumber"), item) for item in items(data, "SegmentSequence")]
    known = [(number, item) for number, item in described if number]  # 0 is the background of a label map
    if not known:
        raise FileError(f"describes no segments; {AGAIN}")
    names = [text(item, "SegmentLabel", f"Segment_{number}") for number, item in known]
    return labels.segments([number for number, _ in known], names)


def _groups(data: Dataset) -> Iterator[list[Dataset]]:
    """Yield the functional groups of each frame: its own, those of all frames, and the file.

    Raises:
        FileError: there are more or fewer than frames.
    """
    own, shared = items(data, "PerFrameFunctionalGroupsSequence"), items(data, "SharedFunctionalGroupsSequence")
    many = whole(data, "NumberOfFrames") or 1
    if len(own) != many:
        raise FileError(f"announces {many} frames but describes {len(own)}; {AGAIN}")
    for group in own:
        yield [group, *shared[:1], data]


def _masks(
    data: Dataset, groups: Sequence[Dataset], plane: NDArray[Any], notes: list[str]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield the number and the mask of each segment that a frame shows."""
    kind = text(data, "SegmentationType", "BINARY")
    if kind == "LABELMAP":
        yield from ((number, plane == number) for number in np.unique(plane).tolist() if number)
        return
    with quiet():
        places = within(list(groups), "SegmentIdentificationSequence")
    number = next((n for place in places if (n := whole(place, "ReferencedSegmentNumber")) is not None), None)
    if number is None:
        raise FileError(f"does not say which segment a frame shows; {AGAIN}")
    least = 1.0
    if kind == "FRACTIONAL":
        least = (whole(data, "MaximumFractionalValue") or 255) / 2
        note = "it is fractional: voxels of a half and more count"
        notes += [note] if note not in notes else []
    yield number, plane >= least


def _place(groups: list[Dataset], size: tuple[int, int], image: Volume) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where a frame lies in the grid of `image`: the voxel of its first pixel, and the steps (2, 3) along it.

    The first step is from row to row, the second from column to column.

    Raises:
        FileError: its pixels are other voxels.
    """
    with quiet():
        first = np.array(numbers(within(groups, "PlanePositionSequence"), "ImagePositionPatient", 3))
        turn = np.reshape(numbers(within(groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6), (2, 3))
        pixel = numbers(within(groups, "PixelMeasuresSequence"), "PixelSpacing", 2)
    ends = np.array(size) - 1
    pixels = np.array([[0, 0], [1, 0], [0, 1], [ends[0], 0], [0, ends[1]], ends])
    points = first + pixels @ (turn[::-1] * np.array(pixel)[:, None])  # down the rows goes the second direction
    there = voxels_at(image, points @ LPS_TO_RAS[:3, :3])
    start = np.rint(there[0]).astype(np.int64)
    steps = np.rint(there[1:3] - there[0]).astype(np.int64)
    off = float(np.abs(there - start - pixels @ steps).max())
    if off > _OFF or abs(steps).sum() != 2 or not abs(steps).any(axis=1).all():
        raise FileError(
            f"has frames that do not lie on the voxels of its image (up to {off:.2g} voxels off); give the scan that "
            f"it was drawn on, or resample it by nearest neighbour"
        )
    return start, steps
