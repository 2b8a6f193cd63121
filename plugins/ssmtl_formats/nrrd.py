"""From a NRRD file to a `Volume`; the format is described at teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssmtl_formats.voxels import Packing, Voxels, beside_of, numbers, sizes_of
from ssmtl_toolkit.data.affines import LPS_TO_RAS, lengths, shear, usable
from ssmtl_toolkit.data.source import AGAIN, FileError, Source, blaming
from ssmtl_toolkit.data.values import clean
from ssmtl_toolkit.data.volume import Volume, stepped_axis
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.names import printable

_TYPES = {
    **dict.fromkeys(["signed char", "int8", "int8_t"], "i1"),
    **dict.fromkeys(["uchar", "unsigned char", "uint8", "uint8_t"], "u1"),
    **dict.fromkeys(["short", "short int", "signed short", "signed short int", "int16", "int16_t"], "i2"),
    **dict.fromkeys(["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"], "u2"),
    **dict.fromkeys(["int", "signed int", "int32", "int32_t"], "i4"),
    **dict.fromkeys(["uint", "unsigned int", "uint32", "uint32_t"], "u4"),
    **dict.fromkeys(["longlong", "long long", "long long int", "int64", "int64_t", "signed long long"], "i8"),
    **dict.fromkeys(["ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"], "u8"),
    "float": "f4",
    "double": "f8",
}
_PACKINGS: dict[str, Packing] = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_RAS = {"left": (0, -1.0), "right": (0, 1.0), "posterior": (1, -1.0), "anterior": (1, 1.0)}
_RAS |= {"inferior": (2, -1.0), "superior": (2, 1.0)}
_SHORT = {"LPS": "left-posterior-superior", "RAS": "right-anterior-superior", "LAS": "left-anterior-superior"}
_MM = {"": 1.0, "mm": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001, "µm": 0.001}
_VALUES = ("colo", "vector", "matrix", "quaternion", "point", "normal", "gradient", "complex")
_MOST_LINES = 10_000  # of a header; Slicer writes some for each segment


def read_nrrd(path: Path, volume: int | None) -> Volume:
    """Read one 3-D scan, voxels in the file's own order; `volume` chooses from a file with a list of volumes.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """
    notes: list[str] = []
    with blaming(path), Source(path, plain=True) as source:
        fields = _fields(source)
        voxels = _voxels(fields)
        affine = _affine(fields, voxels, notes)
        raw = voxels.read(path, source, volume, notes)
        array, replaced = clean(raw, notes)
    spacing = lengths(affine)
    return Volume(array, affine, spacing, stepped_axis(spacing), tuple(notes), replaced)


def data_beside(path: Path) -> list[Path]:
    """The file with the voxels where the header names another one; none where that cannot be told."""
    try:
        with blaming(path), Source(path, plain=True) as source:
            name = _voxels(_fields(source)).file
            return [beside_of(path, name)] if name else []
    except DataError:  # `read_nrrd` says it
        return []


def _fields(source: Source) -> dict[str, str]:
    """Read the header's fields, by names in lower case; `key:=value` is free text and is passed over."""
    if not re.fullmatch(rb"NRRD000\d", source.line()):
        raise FileError(f"is not NRRD: it does not begin with NRRD0004 or the like; {AGAIN}")
    fields: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        line = source.line()
        if not line:
            return fields
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon and not value.startswith("=") and not name.startswith("#"):
            fields[name.strip().lower().replace("datafile", "data file")] = value.strip()
    raise FileError(f"has a header without an end; {AGAIN}")


def _need(fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise FileError(f"says no `{name}`, without which it cannot be read; {AGAIN}")
    return fields[name]


def _voxels(fields: Mapping[str, str]) -> Voxels:
    kind, encoding = _need(fields, "type").lower(), _need(fields, "encoding").lower()
    if kind not in _TYPES:
        raise FileError(f"has voxels of type {printable(kind[:40])!r}; convert it to integers or float")
    if encoding not in _PACKINGS:
        raise FileError(f"is encoded as {printable(encoding[:40])!r}; save it as raw or gzip")
    dtype = np.dtype(_TYPES[kind])
    if dtype.itemsize > 1:
        order = _need(fields, "endian").lower()
        if order not in ("little", "big"):
            raise FileError(f"has an endian {printable(order[:40])!r}, little or big is needed; {AGAIN}")
        dtype = dtype.newbyteorder("<" if order == "little" else ">")
    sizes = sizes_of(_need(fields, "sizes"), "sizes")
    if sizes_of(_need(fields, "dimension"), "a dimension") != (len(sizes),):
        raise FileError(
            f"contradicts itself: dimension {printable(fields['dimension'])} and {len(sizes)} sizes; {AGAIN}"
        )
    file = fields.get("data file", "")
    if file.upper().startswith("LIST") or re.search(r"%\d*d", file):
        raise FileError("has its voxels in several files; save it as one .nrrd file")
    skip = sizes_of(fields.get("byte skip") or fields.get("byteskip") or "0", "a byte skip")
    lines = sizes_of(fields.get("line skip") or fields.get("lineskip") or "0", "a line skip")
    if len(skip) != 1 or skip[0] < -1 or len(lines) != 1 or not 0 <= lines[0] < _MOST_LINES:
        raise FileError(f"skips bytes or lines in a way that makes no sense; {AGAIN}")
    return Voxels(sizes, dtype, _list_axis(fields, len(sizes)), _PACKINGS[encoding], file, skip[0], lines[0])


def _list_axis(fields: Mapping[str, str], count: int) -> int | None:
    """Which of four axes counts volumes: the one that is not in space; None of three.

    Raises:
        FileError: the axis holds the parts of a colour or vector.
    """
    kinds = fields.get("kinds", "").lower().split()
    for kind in kinds:
        if any(word in kind for word in _VALUES):
            raise FileError(f"has several values per voxel ({printable(kind[:40])}); a scan has one: convert it")
    if count != 4:
        return None
    directions = _directions(fields)
    apart = [i for i, words in enumerate(directions) if words is None]
    if len(apart) == 1:
        return apart[0]
    lists = [i for i, kind in enumerate(kinds) if kind in ("list", "time", "none", "???")]
    return lists[0] if len(lists) == 1 else 3


def _directions(fields: Mapping[str, str]) -> list[tuple[float, ...] | None]:
    """The direction of each axis, None for one that is not in space."""
    words = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""), re.IGNORECASE)
    return [None if word.lower() == "none" else numbers(word, "space directions") for word in words]


def _affine(fields: Mapping[str, str], voxels: Voxels, notes: list[str]) -> NDArray[np.float64]:
    columns = [column for column in _directions(fields) if column is not None]
    if len(columns) == len(voxels.sizes) == 4:  # ITK places the fourth axis too
        columns = [column[:3] for column in columns[:3]]
    if not columns:
        return _unplaced(fields, voxels, notes)
    origin = (
        numbers(fields.get("space origin", ""), "a space origin")[: 3 if len(voxels.sizes) == 4 else None] or (0.0,) * 3
    )
    if len(columns) != 3 or any(len(column) != 3 for column in [*columns, origin]):
        raise FileError("has space directions or an origin that are not 3-D; export the scan again")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.transpose(columns), origin
    affine = _to_ras(fields, notes) @ affine
    if not usable(affine):
        raise FileError("has no usable affine (NaN, zero or singular space directions); repair its header")
    if sheared := shear(affine):
        notes.append(sheared)
    return affine


def _unplaced(fields: Mapping[str, str], voxels: Voxels, notes: list[str]) -> NDArray[np.float64]:
    """The affine of a file that gives spacings at most, as ITK takes it: its axes go left, back and up."""
    text = fields.get("spacings", "").split()
    said = [numbers(word, "spacings")[0] for i, word in enumerate(text) if i != voxels.volumes]
    zooms = said if len(said) == 3 and all(np.isfinite(said)) and min(said) > 0 else [1.0, 1.0, 1.0]
    spaced = "" if zooms == said else " and no usable spacing, 1 mm is taken"
    notes.append(f"says no orientation{spaced}; its axes are taken as left, back, up")
    return LPS_TO_RAS @ np.diag([*zooms, 1.0])


def _to_ras(fields: Mapping[str, str], notes: list[str]) -> NDArray[np.float64]:
    """The matrix from the file's space, in its unit, to mm in RAS+."""
    space = fields.get("space", "")
    names = _SHORT.get(space.upper(), space.lower()).split("-")
    if len(names) != 3 or sorted(_RAS[name][0] for name in names if name in _RAS) != [0, 1, 2]:
        notes.append(f"says no anatomical space ({printable(space[:40]) or 'none'}), left-posterior-superior is taken")
        names = ["left", "posterior", "superior"]
    units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', fields.get("space units", ""))} or {""}
    if len(units) > 1 or not units <= _MM.keys():
        raise FileError(f"has space units {printable(', '.join(sorted(units))[:60])}; mm are needed, mend the header")
    scale = _MM[units.pop()]
    if scale != 1.0:
        notes.append(f"its unit is {fields['space units'].split()[0]}, converted to mm")
    matrix = np.diag([0.0, 0.0, 0.0, 1.0])
    for i, name in enumerate(names):
        matrix[_RAS[name][0], i] = _RAS[name][1] * scale
    return matrix
