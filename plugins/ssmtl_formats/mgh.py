"""From FreeSurfer's .mgh and .mgz files to a `Volume`: the header by nibabel, the voxels after our own checks."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from numpy.typing import NDArray

from ssmtl_toolkit.data.geometry import lengths, shear, usable
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import AGAIN, FileError, Source, naming_file
from ssmtl_toolkit.data.values import sanitise_voxels, volume_index
from ssmtl_toolkit.data.volume import Header, Volume, stepped_axis
from ssmtl_toolkit.text import sizes_text

_START = 284  # where the voxels begin
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}


def read_mgh(path: Path, volume: int | None) -> Volume:
    """Read one 3-D scan, voxels in the file's own order; `volume` chooses from a 4-D file.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """

    def chosen(volumes: int) -> range:
        index = volume_index(volumes, volume)
        return range(index, index + 1)

    return _read(path, chosen)[0]


def read_all_volumes(path: Path) -> list[Volume]:
    """Read all volumes of a file, each as `read_mgh` does, in one pass."""
    return _read(path, range)


def _read(path: Path, chosen: Callable[[int], range]) -> list[Volume]:
    """Read those volumes of a file that `chosen` returns for their number."""
    with naming_file(path), Source(path) as source:
        header, notes = _described(source)
        shape, dtype, wanted = header.shape, np.dtype(header.dtype).newbyteorder(">"), chosen(header.volumes)
        count = math.prod(shape) * dtype.itemsize
        check_memory((*shape, len(wanted)), dtype)
        source.skip_to(_START + wanted.start * count)
        raw = [source.fill(count).view(dtype).reshape(shape, order="F") for _ in wanted]
        source.finish(_START + count * header.volumes)  # what follows the voxels is about the scanner, not the grid
        return [_volume(header, data, list(notes)) for data in raw]


def _volume(header: Header, raw: NDArray[Any], notes: list[str]) -> Volume:
    array, replaced = sanitise_voxels(raw, notes)
    place = (header.affine, header.spacing, header.slice_axis)
    return Volume(array, *place, tuple(notes), replaced, frame_ms=header.frame_ms)


def read_mgh_header(path: Path) -> Header:
    """Say what the header alone says, and whether the file can hold that many voxels.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """
    with naming_file(path), Source(path) as source:
        header, notes = _described(source)
    return replace(header, notes=tuple(notes))


def _described(source: Source) -> tuple[Header, list[str]]:
    """Read the header, without its notes, and these."""
    notes: list[str] = []
    fields = _header(source.take(_START))
    dtype = np.dtype(_TYPES[int(fields["type"])])
    i, j, k, volumes = (int(n) for n in fields["dims"])
    end = _START + i * j * k * dtype.itemsize * volumes
    if end > source.limit:
        raise FileError(f"is cut short, or its header lies: it claims {end} bytes; {AGAIN}")
    affine = np.asarray(fields.get_affine(), np.float64)
    if not usable(affine):
        raise FileError("has no usable affine (NaN, zero or singular); repair its header")
    if not int(fields["goodRASFlag"]):
        notes.append("has no orientation; FreeSurfer's coronal one is assumed")
    if sheared := shear(affine):
        notes.append(sheared)
    spacing = _spacing(fields, affine, notes)
    ms = _frame_ms(fields) if volumes > 1 else 0.0
    place = ((i, j, k), affine, spacing, stepped_axis(spacing))
    return Header(*place, volumes=volumes, dtype=dtype.name, frame_ms=ms), notes


def _frame_ms(fields: Any) -> float:
    """The repetition time; 0 if unknown."""
    repetition = float(fields["tr"])
    return repetition if math.isfinite(repetition) and repetition > 0 else 0.0


def _spacing(fields: Any, affine: NDArray[np.float64], notes: list[str]) -> tuple[float, float, float]:
    """Return the header's spacing, with a note if the affine has another."""
    delta, along = np.asarray(fields["delta"], np.float64), lengths(affine)
    if not (np.isfinite(delta).all() and (delta > 0).all()):
        return along
    if (abs(delta / along - 1) > 0.01).any():
        both = " and ".join(" x ".join(f"{x:.4g}" for x in spacing) for spacing in (delta, along))
        notes.append(f"its spacing and that of its affine differ ({both}); the former is used")
    return float(delta[0]), float(delta[1]), float(delta[2])


def _header(head: bytes) -> Any:
    """Check the numbers that the voxels depend on, before nibabel uses them."""
    version, *dims, kind, _ = struct.unpack(">7i", head[:28])
    if version != 1 or kind not in _TYPES:
        raise FileError(f"is not MGH, or of an unknown type: version {version}, voxels of type {kind}; {AGAIN}")
    if min(dims) < 1:
        raise FileError(f"has no voxels: its sizes are {sizes_text(dims)}; export the scan again")
    return MGHHeader.from_fileobj(io.BytesIO(head), check=False)
