"""What DICOM SEG and RTSTRUCT have in common: a label map of a scan, painted onto its grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ssmtl_formats.headers import dataset_of, quiet
from ssmtl_formats.overlaps import Part, Voxels, named, painted, values_of
from ssmtl_formats.spread import series_uids
from ssmtl_toolkit.data.source import AGAIN, FileError
from ssmtl_toolkit.data.volume import Volume

_FAULTS = (OSError, FileError, MemoryError)


@dataclass(frozen=True)
class Segment:
    """A segment of a file: its number there, its name, and the value of its voxels in the label map."""

    number: int
    name: str
    value: int


def segments(numbers: Sequence[int], names: Sequence[str]) -> list[Segment]:
    """Number segments as label values.

    Raises:
        FileError: two have one number, or there are too many.
    """
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise FileError(f"has two segments with the number {twice}; {AGAIN}")
    return [Segment(*of) for of in zip(numbers, names, values_of(numbers), strict=True)]


def classes_of(found: Sequence[Segment]) -> dict[str, tuple[int, ...]]:
    """The values by name."""
    return named([segment.name for segment in found], [segment.value for segment in found])


def header(file: Path, tags: Sequence[str]) -> Dataset:
    """Read some elements of a DICOM file, without its pixels.

    Raises:
        FileError: it is damaged; without a word of what is in it.
    """
    with quiet():
        try:
            return dataset_of(file, tags, stop_before_pixels=True)
        except _FAULTS:
            raise
        except Exception as error:
            raise FileError(f"is damaged or not a DICOM file (pydicom: {type(error).__name__}); {AGAIN}") from None


def items(data: Any, name: str) -> list[Dataset]:
    """The items of a sequence, none if it is missing.

    Raises:
        FileError: the element is something else.
    """
    with quiet():
        try:
            return [item for item in data.get(name) or () if isinstance(item, Dataset)]
        except _FAULTS:
            raise
        except Exception:
            raise FileError(f"has a damaged {name}; {AGAIN}") from None


def text(data: Dataset, name: str, default: str) -> str:
    """A text element, or what stands for it if it is missing or empty."""
    with quiet():
        try:
            return str(data.get(name) or "").strip() or default
        except Exception:  # of letters that its character set does not have
            return default


def label_map(image: Volume, found: Sequence[Segment], voxels: dict[int, list[Voxels]], notes: list[str]) -> Volume:
    """Paint segments, by their numbers, onto the grid of `image`.

    Raises:
        FileError: they do not fit into memory.
    """

    def part(segment: Segment) -> Part:
        own = voxels.get(segment.number, [])
        return Part(segment.value, sum(map(len, own)), lambda: own)

    array = painted(image.shape, [part(segment) for segment in found], notes)
    return Volume(
        array, image.affine, image.spacing, image.slice_axis, tuple(notes), 0, None, positions=image.positions
    )


def voxels_of(
    shape: Sequence[int], start: NDArray[np.integer[Any]], steps: NDArray[np.integer[Any]], mask: NDArray[np.bool_]
) -> tuple[Voxels, int]:
    """The voxels that a mask in a plane of a grid covers, in the order of `ravel`, and how many lie outside of it.

    Args:
        shape: of the grid.
        start: the voxel (3,) of the first pixel.
        steps: (2, 3), from row to row and from column to column: each 1 or -1 along one axis.
        mask: (rows, columns).
    """
    whole = np.count_nonzero(mask)
    sizes, ranges = np.array(shape), []
    for count, step in zip(mask.shape, steps, strict=True):
        axis = int(np.flatnonzero(step)[0])
        ends = sorted(((0 - start[axis]) * step[axis], (sizes[axis] - 1 - start[axis]) * step[axis]))
        ranges.append(slice(max(int(ends[0]), 0), max(min(int(ends[1]) + 1, count), 0)))
    across = ~steps.any(axis=0)  # the axis that the plane does not extend along
    if not ((start >= 0) & (start < sizes))[across].all():
        ranges = [slice(0), slice(0)]
    rows, columns = np.nonzero(mask[tuple(ranges)])
    strides = np.array([sizes[1] * sizes[2], sizes[2], 1])
    kind = np.int32 if sizes.prod() < 2**31 else np.int64
    down, right = (int(step @ strides) for step in steps)
    first = int(start @ strides) + (ranges[0].start or 0) * down + (ranges[1].start or 0) * right
    return np.asarray(first + rows * down + columns * right, kind), int(whole - len(rows))


def scan_of(file: Path, scans: Sequence[Path]) -> Path | None:
    """The only one of `scans` that is of a series which a SEG or RTSTRUCT file refers to; None if there is none.

    Raises:
        FileError: the file is damaged.
    """
    data = header(file, ("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence"))
    frames = items(data, "ReferencedFrameOfReferenceSequence")
    studies = [study for frame in frames for study in items(frame, "RTReferencedStudySequence")]
    series = [one for study in studies for one in items(study, "RTReferencedSeriesSequence")]
    series += items(data, "ReferencedSeriesSequence")
    wanted = {text(one, "SeriesInstanceUID", "") for one in series} - {""}
    fit = [scan for scan in scans if wanted and wanted & series_uids(scan)]
    return fit[0] if len(fit) == 1 else None
