"""From a MetaImage file (.mha, .mhd) to a `Volume`; the format is described in ITK's MetaIO documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssmtl_formats.voxels import Voxels, beside_of, numbers, sizes_of
from ssmtl_toolkit.data.affines import LPS_TO_RAS, lengths, shear, usable
from ssmtl_toolkit.data.source import AGAIN, FileError, Source, blaming
from ssmtl_toolkit.data.values import clean
from ssmtl_toolkit.data.volume import Volume, stepped_axis
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.names import printable

_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4"}
_TYPES |= {"ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
_MOST_LINES = 1000  # of a header


def read_metaimage(path: Path, volume: int | None) -> Volume:
    """Read one 3-D scan, voxels in the file's own order; `volume` chooses from a 4-D file.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """
    notes: list[str] = []
    with blaming(path), Source(path, plain=True) as source:
        fields = _fields(source)
        voxels = _voxels(fields)
        affine = _affine(fields, len(voxels.sizes), notes)
        array, replaced = clean(voxels.read(path, source, volume, notes), notes)
    spacing = lengths(affine)
    return Volume(array, affine, spacing, stepped_axis(spacing), tuple(notes), replaced)


def data_beside(path: Path) -> list[Path]:
    """The file with the voxels where the header names another one; none where that cannot be told."""
    try:
        with blaming(path), Source(path, plain=True) as source:
            name = _voxels(_fields(source)).file
            return [beside_of(path, name)] if name else []
    except DataError:  # `read_metaimage` says it
        return []


def _fields(source: Source) -> dict[str, str]:
    """Read the header's fields, by names in lower case, up to the one after which voxels may follow."""
    fields: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        name, equals, value = source.line(4096).decode("utf-8", "replace").partition("=")
        if not equals:
            break
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            return fields
    raise FileError(f"is not MetaImage: it has no lines `Name = value` up to ElementDataFile; {AGAIN}")


def _need(fields: Mapping[str, str], name: str) -> str:
    if name.lower() not in fields:
        raise FileError(f"says no {name}, without which it cannot be read; {AGAIN}")
    return fields[name.lower()]


def _true(fields: Mapping[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower().startswith(("t", "1")) for name in names)


def _voxels(fields: Mapping[str, str]) -> Voxels:
    if fields.get("objecttype", "Image").lower() != "image":
        raise FileError(f"is a MetaIO {printable(fields['objecttype'][:40])}, not an image; give a scan")
    kind = _need(fields, "ElementType").upper().removeprefix("MET_")
    channels = sizes_of(fields.get("elementnumberofchannels", "1"), "channels")
    if channels != (1,) or kind not in _TYPES:
        raise FileError(
            f"has voxels of {printable(str(*channels))} x {printable(kind[:40])}; convert it to one number per voxel"
        )
    if not _true(fields, "binarydata"):
        raise FileError("has its voxels as text; save it as binary")
    dtype = np.dtype(_TYPES[kind])
    big = _true(fields, "binarydatabyteordermsb", "elementbyteordermsb")
    sizes = sizes_of(_need(fields, "DimSize"), "DimSize")
    if sizes_of(_need(fields, "NDims"), "NDims") != (len(sizes),):
        raise FileError(f"contradicts itself: NDims {printable(fields['ndims'])} and {len(sizes)} sizes; {AGAIN}")
    file = _need(fields, "ElementDataFile")
    if file.upper().startswith("LIST") or "%" in file:
        raise FileError("has its voxels in several files; save it as one .mha file")
    skip = sizes_of(fields.get("headersize", "0"), "HeaderSize")
    if len(skip) != 1 or skip[0] < -1:
        raise FileError(f"has a HeaderSize that makes no sense; {AGAIN}")
    return Voxels(
        sizes,
        dtype.newbyteorder(">" if big else "<"),
        3 if len(sizes) == 4 else None,
        "zlib" if _true(fields, "compresseddata") else "",
        "" if file.upper() == "LOCAL" else file,
        skip[0],
    )


def _affine(fields: Mapping[str, str], count: int, notes: list[str]) -> NDArray[np.float64]:
    spacing = _first(fields, ("elementspacing", "elementsize"), count)
    matrix = _first(fields, ("transformmatrix", "rotation", "orientation"), count * count)
    origin = _first(fields, ("offset", "position", "origin"), count) or (0.0,) * count
    if spacing is None:
        notes.append("says no spacing, 1 mm is taken")
        spacing = (1.0,) * count
    if matrix is None:
        notes.append("says no orientation; its axes are taken as left, back, up")
        matrix = tuple(np.eye(count).ravel().tolist())
    if count < 3:
        return np.eye(4)  # the sizes are refused
    affine = np.eye(4)
    # the file has the direction of one axis after the other: columns of the affine
    affine[:3, :3] = np.reshape(matrix, (count, count))[:3, :3].T * spacing[:3]
    affine[:3, 3] = origin[:3]
    if not usable(affine) or min(spacing[:3]) <= 0:
        raise FileError("has no usable affine (NaN, zero or singular); repair its header")
    if sheared := shear(affine):
        notes.append(sheared)
    return LPS_TO_RAS @ affine


def _first(fields: Mapping[str, str], names: tuple[str, ...], count: int) -> tuple[float, ...] | None:
    """Read so many numbers from the first of these fields that is there."""
    for name in names:
        if name in fields:
            found = numbers(fields[name], name)
            if len(found) != count:
                raise FileError(f"has {len(found)} numbers as {name}, {count} are needed; {AGAIN}")
            return found
    return None
