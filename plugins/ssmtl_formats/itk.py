"""From NRRD and MetaImage to a `Volume`: geometry and voxels by SimpleITK, after our own checks."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_formats.names import INSTALL
from ssmtl_formats.slicer import joined, segments_of
from ssmtl_formats.stored import Fields, Kind, check_voxels, data_file, fields_of
from ssmtl_toolkit.data.geometry import LPS_TO_RAS, lengths, shear, usable
from ssmtl_toolkit.data.source import FileError, Source, naming_file
from ssmtl_toolkit.data.values import sanitise_voxels, volume_index
from ssmtl_toolkit.data.volume import Header, Volume, stepped_axis
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import printable

_IO: dict[Kind, str] = {"NRRD": "NrrdImageIO", "MetaImage": "MetaImageIO"}
_TYPES = ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64", "Float32", "Float64")
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "µm": 0.001}
_NO_LENGTHS = {"", "?", "s", "ms"}
_lock = threading.Lock()


def read_itk(path: Path, volume: int | None, kind: Kind) -> Volume:
    """Read one 3-D scan, voxels in the file's own order; `volume` chooses from a file with several volumes.

    The layers of a segmentation of 3D Slicer become one label map.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """
    return _read(path, kind, lambda volumes: [volume_index(volumes, volume)])[0]


def read_all_volumes(path: Path, kind: Kind) -> list[Volume]:
    """Read all volumes of a file, each as `read_itk` does, decoded once."""
    return _read(path, kind, range)


def _read(path: Path, kind: Kind, chosen: Callable[[int], Sequence[int]]) -> list[Volume]:
    """Read those volumes of a file that `chosen` returns for their number."""
    notes: list[str] = []
    with naming_file(path), Source(path, plain=True) as source:
        fields = fields_of(source, kind)
        file = data_file(path, fields)
        reader, dtype = _opened(path, kind)
        sizes, as_components = _sizes(reader)
        volumes = math.prod(sizes[3:])
        segments = segments_of(path) if kind == "NRRD" else []
        wanted = [0] if segments else chosen(volumes)
        affine = _affine(reader, fields, notes)
        with naming_file(file), contextlib.nullcontext(source) if file == path else Source(file, plain=True) as data:
            check_voxels(data, fields, sizes, dtype, notes)
        with _one_line(kind):
            import SimpleITK

            array = SimpleITK.GetArrayFromImage(reader.Execute())  # (volumes, slices, rows, columns, list)
        array = array.reshape(-1, *sizes[2::-1], volumes if as_components else 1)
        layers = np.moveaxis(array[0], -1, 0) if as_components else array[..., 0]
        if segments:
            return [_volume(joined(layers.transpose(0, 3, 2, 1), segments, notes), affine, notes)]
        arrays = (layers[i].T for i in wanted)
        return [_volume(one.copy(order="K") if volumes > 1 else one, affine, list(notes)) for one in arrays]


def _volume(array: NDArray[Any], affine: NDArray[np.float64], notes: list[str]) -> Volume:
    array, replaced = sanitise_voxels(array, notes)
    spacing = lengths(affine)
    return Volume(array, affine, spacing, stepped_axis(spacing), tuple(notes), replaced)


def read_itk_header(path: Path, kind: Kind) -> Header:
    """Say what the header alone says; whether all voxels are there is not checked.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """
    notes: list[str] = []
    with naming_file(path):
        with Source(path, plain=True) as source:
            fields = fields_of(source, kind)
            data_file(path, fields)
        reader, dtype = _opened(path, kind)
        sizes, _ = _sizes(reader)
        affine = _affine(reader, fields, notes)
    spacing, volumes = lengths(affine), math.prod(sizes[3:])
    shape = (sizes[0], sizes[1], sizes[2])
    return Header(shape, affine, spacing, stepped_axis(spacing), tuple(notes), volumes=volumes, dtype=dtype.name)


def _opened(path: Path, kind: Kind) -> tuple[Any, np.dtype[Any]]:
    """Let ITK read the header; return its reader and the type of the voxels."""
    try:
        import SimpleITK
    except ImportError:
        raise FileError(f"is {kind}, for which SimpleITK is needed: {INSTALL}") from None
    SimpleITK.ProcessObject_SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(_IO[kind])
    reader.SetFileName(str(path))
    with _one_line(kind):
        reader.ReadImageInformation()
    types = {getattr(SimpleITK, f"sitk{of}{name}"): name.lower() for name in _TYPES for of in ("", "Vector")}
    if reader.GetPixelID() not in types:
        raise FileError("has voxels of an unusual type, such as complex numbers; convert it to integers or float")
    return reader, np.dtype(types[reader.GetPixelID()])


def files_of(path: Path, kind: Kind) -> list[Path]:
    """Return the header and, if it names another existing file for the voxels, that file."""
    try:
        with naming_file(path), Source(path, plain=True) as source:
            return list(dict.fromkeys([path, data_file(path, fields_of(source, kind))]))
    except DataError:  # `read_itk` reports it
        return [path]


@contextlib.contextmanager
def _one_line(kind: Kind) -> Iterator[None]:
    """Report the last line of ITK's error; without the lock NrrdIO errors in two threads would end the process."""
    try:
        with _lock if kind == "NRRD" else contextlib.nullcontext():
            yield
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Reason:")]
        reason = re.sub(r"^.*\(0x\w+\): |^\[nrrd\] ", "", lines[-1])[:200]
        reason = re.sub(r'"[^"]*("|$)', "a word of the header", reason)  # which may be a patient's name
        raise FileError(f"cannot be read by ITK ({printable(reason)}); export the scan again") from None


def _sizes(reader: Any) -> tuple[tuple[int, ...], bool]:
    """Return columns, rows, slices and, if there are several, volumes; and whether these are a voxel's components."""
    key = "NRRD_kinds[pixel]"
    kind = reader.GetMetaData(key) if reader.HasMetaDataKey(key) else "vector"
    components, sizes = reader.GetNumberOfComponents(), tuple(reader.GetSize())
    if components > 1 and kind != "list":
        raise FileError(f"has {components} values per voxel ({printable(kind[:40])}); a scan has one: convert it")
    if not 3 <= len(sizes) <= 4 - (components > 1):
        raise FileError(f"has {len(sizes)} dimensions {sizes}; a scan of slices needs 3")
    return (*sizes, components) if components > 1 else sizes, components > 1


def _affine(reader: Any, fields: Fields, notes: list[str]) -> NDArray[np.float64]:
    """Convert ITK's geometry to mm in RAS+."""
    count, zooms = reader.GetDimension(), reader.GetSpacing()
    directions = np.reshape(reader.GetDirection(), (count, count))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions[:3, :3] * zooms[:3], reader.GetOrigin()[:3]
    quoted = re.findall(r'"([^"]*)"', fields.get("spaceunits") or fields.get("units", ""))
    units = {unit.strip().lower() for unit in quoted} - _NO_LENGTHS or {"mm"}
    if len(units) > 1 or not units <= _MM.keys():
        raise FileError(f"has the units {printable(', '.join(sorted(units))[:60])}; mm are needed, fix the header")
    unit = units.pop()
    affine[:3] *= _MM[unit]
    if not usable(affine) or min(zooms[:3]) <= 0 or directions[:3, 3:].any():
        raise FileError("has no usable affine (NaN, zero, negative or singular); repair its header")
    placed = "spacedirections" in fields
    spacings = fields.get("spacings", "1 1 1" if placed else "").lower().split()
    if len(spacings) - spacings.count("nan") < 3:
        notes.append("has no usable spacing; 1 mm is assumed")
    if not placed:
        notes.append("has no orientation; its axes are assumed to be left, back, up")
    elif not re.match("left-|right-|lps|ras|las", space := fields.get("space", ""), re.IGNORECASE):
        notes.append(f"has no anatomical space ({printable(space[:40]) or 'none'}); left-posterior-superior is assumed")
    if unit != "mm":
        notes.append(f"its unit is {unit}, converted to mm")
    if sheared := shear(affine):
        notes.append(sheared)
    return LPS_TO_RAS @ affine
