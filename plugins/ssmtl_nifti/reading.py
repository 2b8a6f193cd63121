"""From a NIfTI file to a `Volume`: nothing in a header is trusted before it is checked."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_nifti import images_of
from ssmtl_nifti.geometry import frame_ms, geometry
from ssmtl_nifti.header import Header, read_header
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import AGAIN, DEFLATE, FileError, Source, naming_file
from ssmtl_toolkit.data.values import sanitise_voxels, volume_index
from ssmtl_toolkit.data.volume import Header as ScanHeader
from ssmtl_toolkit.data.volume import Volume, stepped_axis
from ssmtl_toolkit.text import printable

_EXTENSIONS = 1000  # most records to follow; more would only keep us busy


def read_nifti(path: Path, volume: int | None) -> Volume:
    """Read one 3-D scan; `volume` chooses from a 4-D file and is ignored if there is only one.

    Colours (RGB, RGBA) are channels.

    Integers stay as they are up to 32 bits; scaled voxels and floats are float32.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """

    def chosen(volumes: int) -> range:
        index = volume_index(volumes, volume)
        return range(index, index + 1)

    return _read(path, chosen)[0]


def read_all_volumes(path: Path) -> list[Volume]:
    """Read all volumes of a file, each as `read_nifti` does, in one pass."""
    return _read(path, range)


def _read(path: Path, chosen: Callable[[int], range]) -> list[Volume]:
    """Read those volumes of a file that `chosen` returns for their number."""
    notes: list[str] = []
    with naming_file(path):
        with Source(path) as source:
            if source.zipped != path.name.lower().endswith(".gz"):
                notes.append("is gzip under another name" if source.zipped else "is not gzip as its name says")
            header = read_header(source)
            if header.single:
                raw = _read_voxels(source, header, chosen(header.volumes), notes)
            else:
                source.finish(source.position)
        if not header.single:
            image = image_beside(path)
            with naming_file(image), Source(image) as source:
                raw = _read_voxels(source, header, chosen(header.volumes), notes)
        return [_volume(header, data, list(notes)) for data in raw]


def _volume(header: Header, data: NDArray[np.uint8], notes: list[str]) -> Volume:
    """Make a volume of its bytes."""
    voxels = data.view(header.dtype)
    if header.channels == 1:
        raw = voxels.reshape(header.shape, order="F")
    else:
        raw = _opaque(np.moveaxis(voxels.reshape((header.channels, *header.shape), order="F"), 0, -1), notes)
    array, replaced = sanitise_voxels(raw, notes, (header.slope, header.inter) if header.scaled else (1.0, 0.0))
    with np.errstate(all="ignore"):  # overflow and NaN are checked, not warned about
        affine, spacing = geometry(header, notes)
    axis = stepped_axis(spacing, header.fields.get_dim_info()[2])
    ms = frame_ms(header)
    return Volume(array, affine, spacing, axis, tuple(notes), replaced, header.fields, frame_ms=ms)


def read_nifti_header(path: Path) -> ScanHeader:
    """Say what the header alone says: a few hundred bytes are read, and the size of the file is compared with it.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """
    notes: list[str] = []
    with naming_file(path):
        with Source(path) as source:
            header = read_header(source)
            if header.single:
                _end(source, header)
        if not header.single:
            image = image_beside(path)
            with naming_file(image), Source(image) as source:
                _end(source, header)
        with np.errstate(all="ignore"):
            affine, spacing = geometry(header, notes)
    axis = stepped_axis(spacing, header.fields.get_dim_info()[2])
    return ScanHeader(
        header.shape,
        affine,
        spacing,
        axis,
        tuple(notes),
        volumes=header.volumes,
        dtype=header.dtype.name,
        frame_ms=frame_ms(header),
    )


def _end(source: Source, header: Header) -> int:
    """Return where the voxels end, which may not be beyond the end of the file."""
    end = header.start + header.bytes * header.volumes
    if end > source.limit:
        packed = f", and gzip cannot compress more than {DEFLATE}:1" if source.zipped else ""
        raise FileError(f"is cut short, or its header lies: it claims {end} bytes of {source.size}{packed}; {AGAIN}")
    return end


def _read_voxels(source: Source, header: Header, wanted: range, notes: list[str]) -> list[NDArray[np.uint8]]:
    """Read the bytes of volumes that follow each other, and the rest of the file for its checksum."""
    end = _end(source, header)
    check_memory((*header.shape, header.channels * len(wanted)), header.dtype, header.scaled)
    cramped = header.single and not _check_extensions(source, header)
    source.skip_to(header.start + wanted.start * header.bytes)
    data = [source.fill(header.bytes) for _ in wanted]
    if surplus := source.finish(end):
        if cramped:
            raise FileError(f"announces header extensions, but its vox_offset leaves no room for them; {AGAIN}")
        notes.append(f"{surplus} bytes after the last voxel are ignored")
    return data


def _opaque(colours: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """Colours (I, J, K, 3 or 4) as channels, without an alpha that is the same everywhere; equal ones are gray."""
    if colours.shape[-1] == 4 and (colours[..., 3] == colours[0, 0, 0, 3]).all():
        notes.append("its alpha is the same everywhere and is not used")
        colours = colours[..., :3]
    if (colours == colours[..., :1]).all():
        notes.append("its colours are all gray, and are read as one channel")
        return np.ascontiguousarray(colours[..., 0])
    return colours


def _check_extensions(source: Source, header: Header) -> bool:
    """Follow the sizes of the records between header and voxels; return whether there is room for those announced.

    If a size is wrong, the start of the voxels cannot be trusted either.
    """
    if not source.take(4)[0]:
        return True
    for count in range(_EXTENSIONS):
        room = header.start - source.position
        if room < 16:
            return count > 0
        size = struct.unpack(header.fields.endianness + "i", source.take(4))[0]
        if not 8 <= size <= room:
            raise FileError(f"has a header extension of {size} bytes, but only {room} are left; {AGAIN}")
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
