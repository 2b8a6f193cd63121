"""Arrays written as NIfTI on the grid of the scan that they belong to, and room for those larger than memory."""

from __future__ import annotations

import contextlib
import errno
import gzip
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike, NDArray

from ssmtl_toolkit.data.files import atomic_write
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import printable

_SUFFIXES = (".nii", ".nii.gz")
_TYPES = ("uint8", "uint16", "int32", "float32")
_LEVEL = 4  # of gzip: within a few per cent of 9, several times as fast
_BLOCK = 1 << 26  # bytes in memory at once
_LONGEST = np.iinfo(np.int16).max  # what a size may be in NIfTI-1
_SAME = 1e-3  # of a voxel, at the scan's corners: affines nearer than this are one
_ALIGNED = 2  # NIfTI's code for coordinates "aligned to another scan", which is what an output is
_MM = {1: 1000.0, 3: 0.001}  # xyzt_units: metres, microns; 0 (unknown) and 2 are taken as mm
# All that is taken from the source. What is not here stays behind: its free text may name the patient, and what it
# says of intensities, time and meaning is not true of what is written.
_KEPT = (
    *("dim_info", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)


def write_like(path: Path, array: NDArray[Any], volume: Volume, *, what: str) -> None:
    """Write `array` as NIfTI on the grid of `volume`, whole or not at all; equal input gives equal bytes.

    The header of `volume`, where it says the same as its affine, gives affine, codes, spacing, units and slice axis to
    the bit; a scan without orientation gets none here either, so that both are shown alike. Otherwise the affine is
    written as sform and qform in mm. In time the distance between frames is kept too. Nothing else of the header is
    carried over.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        array: `volume.sizes`, or these and C: uint8, uint16, int32 or float32. It may be larger than memory; one in
            Fortran order, as `scratch_array` makes, is read only once.
        volume: the scan.
        what: `labels`, which is noted as the file's intent, or any other word; errors name it.

    Raises:
        SsmtlError: the file cannot be written; naming it, why, and what to do.
        UsageError: `path` has another suffix.
    """
    if not path.name.lower().endswith(_SUFFIXES):
        raise UsageError(f"{printable(path)}: the {what} can be written as .nii or .nii.gz only; choose such a name")
    own = len(volume.sizes)
    if array.ndim - own not in (0, 1) or array.shape[:own] != volume.sizes:
        raise ValueError(f"expected an array of shape {volume.sizes} or {volume.sizes} + (C,), got {array.shape}")
    if array.dtype.name not in _TYPES:
        raise ValueError(f"expected an array of {', '.join(_TYPES)}, got {array.dtype.name}")
    header = _header(array, volume, what)
    with (
        atomic_write(path, what=f"the {what} ") as temporary,
        _opened(temporary, zipped=path.name.lower().endswith(".gz")) as stream,
    ):
        stream.write(header.binaryblock + bytes(4))  # four zeros: no extensions follow
        for block in _blocks(array):
            stream.write(block.data)


@contextlib.contextmanager
def _opened(path: Path, zipped: bool) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        if not zipped:
            yield file
            return
        # neither a name nor a time: equal content gives equal bytes
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as stream:
            yield cast("IO[bytes]", stream)


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the voxels as the file has them, I fastest, little-endian, (n,) each and no more than `_BLOCK` bytes."""
    step = max(1, _BLOCK // (array.itemsize * array.shape[0] * array.shape[1]))
    for which in np.ndindex(array.shape[:2:-1]):  # the frames of the first channel come first
        volume = array[(..., *which[::-1])]
        for k in range(0, volume.shape[2], step):
            block = volume[:, :, k : k + step].ravel(order="F")
            yield block.astype(block.dtype.newbyteorder("<"), copy=False)


def _header(array: NDArray[Any], volume: Volume, what: str) -> nib.Nifti1Header:
    wide = max(array.shape) > _LONGEST or isinstance(volume.header, nib.Nifti2Header)
    header = _fresh(array, what, nib.Nifti2Header if wide else nib.Nifti1Header)
    if volume.header is not None:
        _keep_grid(header, volume.header)
        if volume.frames is not None:
            header["pixdim"][4] = volume.header["pixdim"][4]
        if _says(header, volume):
            return header
        header = _fresh(array, what, type(header))
    header.set_sform(volume.affine, code=_ALIGNED)
    header.set_qform(volume.affine, code=_ALIGNED)
    header.set_xyzt_units("mm", "msec" if volume.frame_ms and volume.frames else None)
    if volume.frames is not None:
        header["pixdim"][4] = volume.frame_ms
    header.set_dim_info(slice=volume.slice_axis)
    return header


def _fresh(array: NDArray[Any], what: str, kind: type[nib.Nifti1Header]) -> nib.Nifti1Header:
    header = kind(endianness="<")
    header["dim"] = [array.ndim, *array.shape] + [1] * (7 - array.ndim)
    header.set_data_dtype(array.dtype)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    header.set_intent("label" if what == "labels" else "none")
    return header


def _keep_grid(header: nib.Nifti1Header, source: nib.Nifti1Header) -> None:
    """Copy what says where the voxels lie."""
    for name in _KEPT:
        header[name] = source[name]
    header["pixdim"][:4] = source["pixdim"][:4]
    if header["pixdim"][0] != -1:
        header["pixdim"][0] = 1  # the standard: anything but -1 means 1
    for code in ("qform_code", "sform_code"):
        if not 0 <= header[code] <= 5:
            header[code] = 0  # none that the standard knows: as if it were not there


def _says(header: nib.Nifti1Header, volume: Volume) -> bool:
    """Whether the header's spacing is sound and its affine that of the volume."""
    zooms = header["pixdim"][1:4].astype(np.float64)
    if not (np.isfinite(zooms).all() and (zooms > 0).all()):
        return False
    try:
        affines = [header.get_best_affine()]
    except (HeaderDataError, ValueError):  # an impossible quaternion
        return False
    if not (header["sform_code"] or header["qform_code"]):
        affines.append(np.diag([*zooms, 1.0]))  # nibabel centres such scans, the standard and our reader do not
    scale = _MM.get(int(header["xyzt_units"]) & 7, 1.0)
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*volume.shape, 1)
    least = _SAME * np.linalg.norm(volume.affine[:3, :3], axis=0).min()
    apart = (corners @ (np.diag([scale, scale, scale, 1.0]) @ affine - volume.affine).T for affine in affines)
    return any(bool(np.linalg.norm(a[:, :3], axis=1).max() < least) for a in apart)


@contextlib.contextmanager
def scratch_array(shape: tuple[int, ...], dtype: DTypeLike, folder: Path) -> Iterator[np.memmap[Any, Any]]:
    """Give an array of zeros that lies in a file in `folder`, for what is larger than memory.

    It is in Fortran order, so that `write_like` reads it in the order of the disk. The file has no name: it is gone
    when the array is, even if the process is killed. Its space is taken at once: a disk that fills up later would end
    the process without a word.

    Raises:
        SsmtlError: there is no room for it, or `folder` cannot be written to.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with contextlib.ExitStack() as stack:
        with writable(folder, what=f"{size / 2**30:.2f} GiB of intermediate results "):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            _reserve(file.fileno(), size)
            array: np.memmap[Any, Any] = np.memmap(file, dtype, "r+", shape=shape, order="F")
        yield array


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    status = os.fstatvfs(descriptor)  # macOS
    if status.f_bavail * status.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.truncate(descriptor, size)


def output_name(source: Path) -> str:
    """Name the output for a scan: its name with `.nii.gz` in place of its suffix; a folder's whole name with it.

    >>> [output_name(Path(name)) for name in ("a/x.nii", "x.NII.GZ", "x.hdr.gz", "x.1.mha", "CT.1.3.12")]
    ['x.nii.gz', 'x.nii.gz', 'x.nii.gz', 'x.1.nii.gz', 'CT.1.3.12.nii.gz']
    """
    name = source.name if source.name not in ("", "..") else source.resolve().name
    # digits after a dot are part of the name: those of DICOM are numbers with dots
    stem = name if source.is_dir() else re.sub(r"(?i)(?<=.)(\.[a-z][a-z0-9]{0,4})?(\.gz)?$", "", name)
    return f"{stem}.nii.gz"
