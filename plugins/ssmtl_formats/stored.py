"""Where NRRD and MetaImage store their voxels, and whether they are complete: what ITK does not check.

If compressed voxels are damaged, or fewer than the header says, ITK returns wrong ones without an error. So they are
counted and their checksums compared before it reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import AGAIN, FileError, Source
from ssmtl_toolkit.text import printable

Kind = Literal["NRRD", "MetaImage"]
Fields = Mapping[str, str]

_HARMLESS = re.compile(r"MET_\w+|[-+.,\d\s\0]*(e[-+]?\d+)?|yes|no|on|off|nan|inf|none", re.IGNORECASE)
_META_TYPE = r"MET_(U?(CHAR|SHORT|INT|LONG|LONG_LONG)|FLOAT|DOUBLE)"
_META_VECTORS = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin")
_META_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
# How files with their own header begin, and where
_MAGIC = (
    *(
        (0, start)
        for start in (b"NRRD0", b"ObjectType", b"NDims", b"\x89PNG", b"\x89HDF", b"PK\3\4", b"II*\0", b"MM\0*")
    ),
    *((128, b"DICM"), (344, b"n+1\0"), (4, b"n+2\0")),
)
_LONGEST_LINE = 500  # of a field; one of over 1000 bytes that it does not understand ends ITK, and the process
_MOST_LINES = 10_000  # in a header; Slicer writes some for each segment


def header_lines(source: Source) -> Iterator[str]:
    """Yield the lines of a NRRD header after its first one, up to the empty line.

    Raises:
        FileError: it is not NRRD, or has too many lines.
    """
    if not re.fullmatch(rb"NRRD000\d", source.line()):
        raise FileError(f"is not NRRD: it does not begin with NRRD0004 or the like; {AGAIN}")
    for _ in range(_MOST_LINES):
        line = source.line().decode("utf-8", "replace")
        if not line:
            return
        if "\0" in line:  # where ITK takes the line to end
            raise FileError(f"has a null character in its header; {AGAIN}")
        yield line
    raise FileError(f"has a header without an end; {AGAIN}")


def fields_of(source: Source, kind: Kind) -> dict[str, str]:
    """Read the header's lines up to the voxels; NRRD's names without blanks and in lower case."""
    if kind == "NRRD":
        return _nrrd_fields(source)
    fields: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        line = source.line().decode("utf-8", "replace")
        name, sign, value = line.partition("=")
        if sign and not line.startswith("#") and not value.startswith("="):
            fields[name.strip()] = value.strip()
        if not line or "ElementDataFile" in fields:
            break
    else:
        raise FileError(f"has a header without an end; {AGAIN}")
    return _as_nrrd(fields)


def _nrrd_fields(source: Source) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in header_lines(source):
        name, sign, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):  # `name:=value` is free text
            continue
        if name != "content" and len(line.encode()) > _LONGEST_LINE:
            raise FileError(f"has a header line of {len(line)} characters, {printable(line[:40])!r}…; {AGAIN}")
        if sign:
            fields[name.replace(" ", "").lower()] = value.strip()
    return fields


def _as_nrrd(fields: dict[str, str]) -> dict[str, str]:
    """Translate the fields of a MetaImage to NRRD's; refuse what MetaIO would guess or print warnings about."""
    for name in ("NDims", "DimSize", "ElementType", "ElementDataFile"):
        if name not in fields:
            raise FileError(f"is not MetaImage: it has no line `{name} = ...` before its voxels; {AGAIN}")
    dims = _whole(fields, "NDims", 1, 10)
    needed = {"DimSize": dims, **dict.fromkeys(_META_VECTORS, dims), **dict.fromkeys(_META_MATRICES, dims * dims)}
    for name in needed.keys() & fields.keys():
        words = fields[name].split()
        number = r"[1-9][0-9]*" if name == "DimSize" else r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?"
        if len(words) != needed[name] or not all(re.fullmatch(number, word, re.IGNORECASE) for word in words):
            raise FileError(f"has {name} {_got(fields[name])}, {needed[name]} numbers are needed; {AGAIN}")
    if not re.fullmatch(_META_TYPE, fields["ElementType"]):
        raise FileError(f"has voxels of {_got(fields['ElementType'])}; convert it to one number per voxel")
    if not _true(fields, "BinaryData", "True"):
        raise FileError("stores its voxels as text; save it as binary")
    file, packed = fields["ElementDataFile"], _true(fields, "CompressedData")
    local = file.upper() == "LOCAL"
    if _whole(fields, "HeaderSize", -1) > 0 and (local or packed):
        raise FileError(f"has a HeaderSize, which only uncompressed voxels in a separate file may have; {AGAIN}")
    return {
        **fields,
        "datafile": "" if local else file,
        "encoding": "zlib" if packed else "raw",
        "byteskip": fields.get("HeaderSize", "0"),
        "space": "left-posterior-superior",
        "spacings": fields.get("ElementSpacing") or fields.get("ElementSize", ""),
        "spaceunits": f'"{fields.get("DistanceUnits", "")}"',
        **({"spacedirections": ""} if fields.keys() & {*_META_MATRICES} else {}),
    }


def _true(fields: Fields, name: str, default: str = "False") -> bool:
    value = fields.get(name, default)
    if value.lower() not in ("true", "false", "1", "0"):
        raise FileError(f"has {name} {_got(value)}, True or False is needed; {AGAIN}")
    return value.lower() in ("true", "1")


def _got(text: str) -> str:
    """A value for a message; words that do not belong into a header may be a patient's name, and are not shown."""
    return repr(printable(text[:60])) if _HARMLESS.fullmatch(text) else "of other words"


def _whole(fields: Fields, name: str, least: int, most: int = 1 << 50, default: str = "0") -> int:
    text = fields.get(name, default)
    if not re.fullmatch(r"-?[0-9]{1,16}", text) or not least <= int(text) <= most:
        raise FileError(f"has {name} {_got(text)}, which makes no sense; {AGAIN}")
    return int(text)


def data_file(path: Path, fields: Fields) -> Path:
    """Return the file with the voxels: that of the header, or one beside or below it, nowhere else."""
    name = fields.get("datafile", "")
    if name.upper().startswith("LIST") or "%" in name:
        raise FileError(f"has its voxels in several files; save it as one {path.suffix[:3]}… file")
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise FileError(f"has its voxels elsewhere ({printable(name)}); put that file beside it and fix the header")
    if name and not (path.parent / name).exists():
        raise FileError(f"is a header without its voxels; put {printable(name)} beside it")
    return path.parent / name if name else path


def check_voxels(data: Source, fields: Fields, sizes: tuple[int, ...], dtype: np.dtype[Any], notes: list[str]) -> None:
    """Read through the voxels as stored, without keeping them: all must be there, and no more."""
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz", "zlib"):
        raise FileError(f"is encoded as {printable(encoding[:40])!r}; save it as raw or gzip")
    lines = _whole(fields, "lineskip", 0, _MOST_LINES)
    for _ in range(lines):
        data.line()
    skip = _whole(fields, "byteskip", -1 if encoding == "raw" else 0)
    count = math.prod(sizes) * dtype.itemsize
    if encoding != "raw":
        packed = data.size - data.position
        declared = _whole(fields, "CompressedDataSize", 0, default=str(packed if fields.get("datafile") else 0))
        if encoding == "zlib" and declared != packed:  # without it ITK would unpack the header too
            raise FileError(f"is cut short, or its CompressedDataSize is wrong or missing; {AGAIN}")
        data.unpack("zlib" if encoding == "zlib" else "gzip")
    name = fields.get("datafile", "")
    foreign = bool(name) and not lines and encoding != "zlib" and _has_header(name, data.peek(512))
    if skip == -1:
        data.skip_to(max(data.position, data.size - count))
    end = data.position + max(skip, 0) + count
    if end > data.limit:
        raise FileError(
            f"is cut short, or its header lies: it claims {end} bytes, more than its {data.size} can be; {AGAIN}"
        )
    check_memory(sizes, dtype, scaled=True)  # numpy holds a second copy
    data.skip_to(end)
    surplus = data.finish(end)
    if foreign and (skip == 0 or surplus):
        raise FileError(
            f"has a header of its own, whose bytes would be read as voxels; give that file itself, or state where its "
            f"voxels begin ({'HeaderSize' if 'ElementDataFile' in fields else 'byte skip'})"
        )
    if surplus:
        if surplus >= sizes[0] * sizes[1] * dtype.itemsize:
            raise FileError(f"holds {surplus} bytes more than its header says: some size is wrong; {AGAIN}")
        notes.append(f"{surplus} bytes after the last voxel are ignored")


def _has_header(name: str, head: bytes) -> bool:
    """Whether a data file has a format that describes its own voxels."""
    if any(head[at : at + len(start)] == start for at, start in _MAGIC):
        return True
    if name.lower().endswith((".mgh", ".mgz")):
        return head[:4] == b"\0\0\0\1"
    return name.lower().endswith(".mha") and bool(re.match(rb"\w+ *=", head))
