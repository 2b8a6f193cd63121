"""The header of a NIfTI file: every field that the voxels depend on is checked before memory is allocated."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from ssmtl_toolkit.data.source import AGAIN, FileError, Source
from ssmtl_toolkit.text import sizes_text

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COLOURS = {128: 3, 2304: 4}  # RGB and RGBA: so many bytes for each voxel
_NO_IMAGE = {0: "unknown", 1: "1-bit", 32: "complex64", 1536: "float128", 1792: "complex128", 2048: "complex256"}
_KINDS: dict[int, tuple[Any, bytes, bytes]] = {
    348: (nib.Nifti1Header, b"n+1\0", b"ni1\0"),
    540: (nib.Nifti2Header, b"n+2\0", b"ni2\0"),
}

_FOREIGN = (
    (b"version https://git-lfs", "a git-LFS pointer, not the scan itself; run git lfs pull"),
    (b"<", "a web page or XML, not a scan; download it again"),
    (b"\x00\x05\x16\x07", "macOS's AppleDouble data, not a scan; delete it"),
    (b"\x80", "a Python pickle by its first byte, not a scan, and was not opened; save it as NIfTI"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"BZh", "compressed by bzip2; decompress it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; decompress it"),
    (b"\x89HDF", "HDF5 (MINC 2 or other), not NIfTI; convert it to NIfTI"),
)


@dataclass(frozen=True)
class Header:
    fields: nib.Nifti1Header
    single: bool  # the voxels follow in the same file
    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[Any]
    start: int  # where the voxels begin
    slope: float  # scl_slope and scl_inter; 1 and 0 if unset
    inter: float
    channels: int = 1  # of colours

    @property
    def scaled(self) -> bool:
        return self.channels == 1 and (self.slope, self.inter) != (1.0, 0.0)

    @property
    def bytes(self) -> int:
        """Of one volume."""
        return math.prod(self.shape) * self.channels * self.dtype.itemsize


def read_header(source: Source) -> Header:
    """Read the header and check every field that the voxels depend on, before any memory is allocated for them."""
    size, order = _recognise(source.peek(540))
    header_class, plus, pair = _KINDS[size]
    fields = header_class(source.take(size), endianness=order, check=False)
    magic = fields["magic"].item().ljust(4, b"\0")[:4]
    if magic not in (plus, pair):
        kind = "Analyze 7.5" if not magic.strip(b"\0") else "damaged or another format"
        raise FileError(f"is not NIfTI but {kind}: its magic is {magic!r}, not {plus!r}; convert it to NIfTI")
    shape, volumes = _shape(fields)
    start = float(fields["vox_offset"])
    least = size + 4 if magic == plus else 0
    if not (math.isfinite(start) and start >= least and start.is_integer()):
        raise FileError(f"has an impossible vox_offset {start:g}; at least {least} is needed; {AGAIN}")
    slope, inter = _scaling(fields)
    dtype, channels = _voxel_type(fields, order)
    return Header(fields, magic == plus, shape, volumes, dtype, int(start), slope, inter, channels)


def _recognise(head: bytes) -> tuple[int, str]:
    """Return the header's length, which is its first field, and the byte order in which that is found."""
    if not head:
        raise FileError(f"is empty; {AGAIN}")
    for order in "<>":
        if len(head) >= 4 and (size := struct.unpack_from(order + "i", head)[0]) in _KINDS:
            if len(head) < size:
                raise FileError(f"is cut short: {len(head)} bytes, but the header alone has {size}; {AGAIN}")
            return size, order
    for first, what in _FOREIGN:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(first):
            raise FileError(f"is {what}")
    if head[128:132] == b"DICM":
        raise FileError("is DICOM, not NIfTI; convert it (dcm2niix)")
    raise FileError(f"is not NIfTI: it begins with {head[:4]!r}, not with the header's length 348 or 540; {AGAIN}")


def _shape(fields: nib.Nifti1Header) -> tuple[tuple[int, int, int], int]:
    """Return (I, J, K) and the number of volumes."""
    count, *dims = (int(n) for n in fields["dim"])
    if not 1 <= count <= 7:
        raise FileError(f"has an impossible number of dimensions, dim[0] = {count}; {AGAIN}")
    dims = dims[:count]
    if min(dims) < 1:
        raise FileError(f"has no voxels: its size is {sizes_text(dims)}; export the scan again")
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    if len(dims) < 3:
        raise FileError(f"has {len(dims)} dimensions ({sizes_text(dims)}); a scan of slices needs 3")
    if len(dims) > 4:
        raise FileError(f"has {len(dims)} dimensions ({sizes_text(dims)}: a warp or vectors); give a 3-D scan")
    return (dims[0], dims[1], dims[2]), math.prod(dims[3:])


def _voxel_type(fields: nib.Nifti1Header, order: str) -> tuple[np.dtype[Any], int]:
    """Return the type of a value, and how many there are for each voxel."""
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    channels = _COLOURS.get(code, 1)
    if code not in _TYPES and code not in _COLOURS:
        what = _NO_IMAGE.get(code, "unknown")
        raise FileError(f"has voxels of type {code} ({what}); convert it to integers or float32, one value per voxel")
    dtype = np.dtype(order + _TYPES.get(code, "u1"))
    if bits != 8 * dtype.itemsize * channels:
        name = dtype.name if channels == 1 else f"{'RGBA'[:channels]}"
        raise FileError(f"contradicts itself: voxels of type {name} with bitpix {bits}; {AGAIN}")
    return dtype, channels


def _scaling(fields: nib.Nifti1Header) -> tuple[float, float]:
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or math.isnan(slope):  # the standard's and nibabel's way to say "not scaled"
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise FileError(f"cannot be scaled by slope {slope:g} and intercept {inter:g}; export the scan again")
    return slope, inter
