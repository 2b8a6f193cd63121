"""Volumes of a 4-D file joined to a scan in time: at each position the frames are a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import SeveralVolumesError, naming_file
from ssmtl_toolkit.data.volume import Header, Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import ReaderSpec

ONE_FRAME = (
    "has one frame only, and --axis time needs several: a 4-D file, a DICOM cine or a folder of frames; single "
    "volumes are for the other axes"
)
_NO_TIMES = "does not say how many ms lie between its frames; distances are counted in frames"
_FRAMES = "with --axis time give a 4-D label map with a frame for each, unlabelled ones empty"


def read_in_time(reader: ReaderSpec, path: Path) -> Volume:
    """Read all volumes of a 4-D file, or frames of a film, as one scan in time.

    Raises:
        DataError: it has one frame only, or its frames differ in shape; or it cannot be read.
    """
    try:
        reader.read(path)
    except SeveralVolumesError as error:
        with naming_file(path):
            return joined(reader.read_all(path, error.volumes))
    raise DataError(ONE_FRAME)


def joined(volumes: Sequence[Volume]) -> Volume:
    """Join volumes on one grid, in their order: (I, J, K, T) or (I, J, K, T, C).

    Raises:
        DataError: they differ in shape, or do not fit into memory together.
    """
    first, kind = volumes[0], np.result_type(*(one.array for one in volumes))
    if shapes := {one.array.shape for one in volumes} - {first.array.shape}:
        raise DataError(f"has frames of different shapes ({first.array.shape} and {shapes.pop()})")
    shape = (*first.shape, len(volumes), *first.array.shape[3:])
    check_memory(shape, kind)
    array = np.empty(shape, kind, order="F")
    for t, one in enumerate(volumes):
        array[:, :, :, t] = one.array
    notes = list(dict.fromkeys(note for one in volumes for note in one.notes))
    files = [one.files[0] for one in volumes if len(one.files) == 1]
    return replace(
        first,
        array=array,
        notes=tuple(notes),
        replaced=sum(one.replaced for one in volumes),
        files=tuple(files) if len(set(files)) == len(volumes) else (),
        frames=len(volumes),
    )


def header_in_time(header: Header) -> Header:
    """What the header of a 4-D file says of its scan in time.

    Raises:
        DataError: it has one frame only.
    """
    if header.volumes == 1:
        raise DataError(ONE_FRAME)
    notes = () if header.frame_ms else (_NO_TIMES,)
    return replace(header, frames=header.volumes, volumes=1, notes=(*header.notes, *notes))


def label_in_time(reader: ReaderSpec, path: Path, image: Volume) -> Volume:
    """Read a label map with a frame for each of its scan.

    Raises:
        DataError: it has another number, or is a single volume.
    """
    if reader.only_labels:
        raise DataError(f"is a label map of a format ({reader.name}) that has no frames; {_FRAMES}")
    if reader.header(path).volumes == 1:
        raise DataError(f"is a single label map, and its scan has {image.frames} frames; {_FRAMES}")
    label = read_in_time(reader, path)
    if label.frames != image.frames:
        raise DataError(f"has {label.frames} frames, and its scan has {image.frames}; {_FRAMES}")
    return label


def with_note(scan: Volume) -> Volume:
    """The scan in time, with a note if it does not say how many ms lie between its frames; of labels nobody asks."""
    return scan if scan.frame_ms else replace(scan, notes=(*scan.notes, _NO_TIMES))
