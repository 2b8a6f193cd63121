"""From a NIfTI file to a `Volume`: nothing that a header says is believed before it is checked."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_nifti import images_of
from ssmtl_nifti.geometry import geometry
from ssmtl_nifti.header import Header, by, read_header
from ssmtl_nifti.source import AGAIN, DEFLATE, FileError, Source, blaming
from ssmtl_toolkit.data.volume import Volume, stepped_axis
from ssmtl_toolkit.names import printable

_EXTENSIONS = 1000  # records whose sizes are followed; more would be a way to keep us busy
_NARROWED = ("uint32", "int64", "uint64", "float64")  # torch has little use for uint32


def read_nifti(path: Path, volume: int | None) -> Volume:
    """Read one 3-D scan; `volume` chooses from a 4-D file and is ignored where there is but one.

    Integers stay as they are up to 32 bits; scaled voxels and floats are float32.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """
    notes: list[str] = []
    with blaming(path):
        with Source(path) as source:
            if source.zipped != path.name.lower().endswith(".gz"):
                notes.append("is gzip under another name" if source.zipped else "is not gzip as its name says")
            header = read_header(source)
            if header.single:
                raw = _read_voxels(source, header, volume, notes)
            else:
                source.finish(source.position)
        if not header.single:
            image = image_beside(path)
            with blaming(image), Source(image) as source:
                raw = _read_voxels(source, header, volume, notes)
        with np.errstate(all="ignore"):  # overflow and NaN are looked for, not warned of
            array, replaced = _values(raw, header, notes)
            affine, spacing = geometry(header, notes)
    axis = stepped_axis(spacing, header.fields.get_dim_info()[2])
    return Volume(array, affine, spacing, axis, tuple(notes), replaced, header.fields)


def _read_voxels(source: Source, header: Header, volume: int | None, notes: list[str]) -> NDArray[Any]:
    """Read one volume (I, J, K), big- or little-endian and unscaled, and the rest of the file for its checksum."""
    end = header.start + header.bytes * header.volumes
    if end > source.limit:
        packed = f", and gzip cannot pack more than {DEFLATE}:1" if source.zipped else ""
        raise FileError(f"is cut short, or its header lies: it claims {end} bytes of {source.size}{packed}; {AGAIN}")
    index = _chosen(header, volume)
    _check_memory(header)
    cramped = header.single and not _check_extensions(source, header)
    source.skip_to(header.start + index * header.bytes)
    data = source.fill(header.bytes)
    if surplus := source.finish(end):
        if cramped:
            raise FileError(f"announces header extensions, but its vox_offset leaves no room for them; {AGAIN}")
        notes.append(f"{surplus} bytes after the last voxel are ignored")
    return data.view(header.dtype).reshape(header.shape, order="F")


def _chosen(header: Header, volume: int | None) -> int:
    if header.volumes == 1:
        return 0
    if volume is None:
        raise FileError(f"is 4-D with {header.volumes} volumes; give --volume i, 0 to {header.volumes - 1}")
    if not 0 <= volume < header.volumes:
        raise FileError(f"has no volume {volume}; give --volume 0 to {header.volumes - 1}")
    return volume


def _check_memory(header: Header) -> None:
    """Refuse what would take more than half of the machine's memory, read and scaled."""
    copied = header.scaled or header.dtype.name in _NARROWED
    needed = header.bytes + copied * 4 * math.prod(header.shape)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 1 << 34  # Windows does not tell
    if needed > memory // 2:
        gib = f"{needed / 2**30:.1f} GiB of memory, more than half of this machine's {memory / 2**30:.1f}"
        raise FileError(f"needs {gib}; take a larger machine or crop the scan ({by(list(header.shape))})")


def _check_extensions(source: Source, header: Header) -> bool:
    """Follow the sizes of the records between header and voxels, and tell whether there is room for those announced.

    A wrong size means that one cannot trust where the voxels begin.
    """
    if not source.take(4)[0]:
        return True
    for count in range(_EXTENSIONS):
        room = header.start - source.position
        if room < 16:
            return count > 0
        size = struct.unpack(header.fields.endianness + "i", source.take(4))[0]
        if not 8 <= size <= room:
            raise FileError(f"has a header extension of {size} bytes where {room} are left; {AGAIN}")
        source.skip_to(source.position + size - 4)
    return True


def image_beside(header: Path) -> Path:
    """Find the .img or .img.gz of a header file."""
    images = images_of(header)
    if not images:
        raise FileError("is the header of a .hdr/.img pair under another name; name it .hdr beside its .img")
    for image in images:
        if image.exists():
            return image
    raise FileError(f"is a header without its voxels; put {printable(images[0].name)} beside it")


def _values(raw: NDArray[Any], header: Header, notes: list[str]) -> tuple[NDArray[Any], int]:
    """Scale, narrow to 32 bits, replace NaN and infinity by the smallest finite value, and count them."""
    if not raw.dtype.isnative:
        raw = raw.byteswap(inplace=True).view(raw.dtype.newbyteorder("="))
    low, high, lost = _survey(raw)
    if lost == raw.size:
        raise FileError("has only NaN or infinite voxels: no image; export the scan again")
    array = _scale(raw, header) if header.scaled else _narrow(raw, int(low), int(high), notes)
    if array is not raw:
        low, _, lost_now = _survey(array)
        if lost_now > lost:
            raise FileError(f"has {lost_now - lost} values too large for float32; rescale the scan")
    if lost:
        notes.append(f"NaN or infinite voxels: {lost}, taken as the smallest value {low:g}")
        array[~np.isfinite(array)] = low
    return array, lost


def _survey(array: NDArray[Any]) -> tuple[Any, Any, int]:
    """Return the smallest and largest finite value, and how many are not finite."""
    low, high = array.min(), array.max()  # NaN spreads to both: with finite ends all is finite
    if np.isfinite(low) and np.isfinite(high):
        return low, high, 0
    finite = np.isfinite(array)
    lost = array.size - int(np.count_nonzero(finite))
    if lost == array.size:
        return low, high, lost
    return array.min(where=finite, initial=np.inf), array.max(where=finite, initial=-np.inf), lost


def _scale(raw: NDArray[Any], header: Header) -> NDArray[np.float32]:
    """Compute `raw * slope + inter` in float64, rounded once; slice by slice to save memory."""
    array = np.empty(raw.shape, np.float32, order="F")
    for k in range(raw.shape[2]):
        array[..., k] = raw[..., k] * np.float64(header.slope) + header.inter
    return array


def _narrow(raw: NDArray[Any], low: int, high: int, notes: list[str]) -> NDArray[Any]:
    """Make int32 or float32 of the types that are wider, and of uint32."""
    if raw.dtype.name not in _NARROWED:
        return raw
    if raw.dtype.kind == "f":
        return raw.astype(np.float32)
    if low >= -(2**31) and high < 2**31:
        return raw.astype(np.int32)
    notes.append(f"its {raw.dtype.name} voxels go up to {high} and are rounded to float32")
    return raw.astype(np.float32)
