"""From an archive to a `Volume`; nothing in the file is trusted before it is checked."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from ssmtl_toolkit.data.geometry import lengths, usable
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import FileError, naming_file
from ssmtl_toolkit.data.values import sanitise_voxels, volume_index
from ssmtl_toolkit.data.volume import Volume, stepped_axis


def read_archive(path: Path, volume: int | None) -> Volume:
    """Read one scan; `volume` chooses from an `array` with four axes.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do: users have thousands of files.
    """
    notes: list[str] = []
    with naming_file(path):  # makes a DataError that begins with the file's name of whatever goes wrong in here
        array, affine = _load(path)
        if affine.shape != (4, 4) or affine.dtype.kind not in "iuf" or not usable(affine.astype(np.float64)):
            raise FileError(f"its 'affine' is {affine.tolist()}; save the 4x4 matrix from voxel indices to mm in RAS+")
        if array.ndim == 4 and array.size:
            array = array[..., volume_index(array.shape[3], volume)]
        if array.ndim != 3 or not array.size or array.dtype.kind not in "buif":
            raise FileError(
                f"its 'array' is {array.dtype} {array.shape}; save numbers of shape (I, J, K) or (I, J, K, V)"
            )
        array, replaced = sanitise_voxels(array, notes)  # at most 32 bits wide, and without NaN
        spacing = lengths(affine)
    return Volume(array, affine.astype(np.float64), spacing, stepped_axis(spacing), tuple(notes), replaced)


def _load(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the two arrays as they are in the file."""
    path.open("rb").close()  # a file that is missing or locked is another error than one that is not an archive
    if not zipfile.is_zipfile(path):
        raise FileError("is not a NumPy archive or is cut short; write it with np.savez, or copy it again")
    try:
        # No pickles: they run code when they are read, and scans may come from anybody.
        with np.load(path, allow_pickle=False) as archive:
            for name in ("array", "affine"):
                if name not in archive.files:
                    raise FileError(f"has no {name!r}, but {archive.files}; save both with np.savez")
                with archive.zip.open(f"{name}.npy") as stream:  # a small file may hold or claim more than memory does
                    check_memory(*_header(stream))
            return archive["array"], archive["affine"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FileError(f"is damaged, or not written by np.savez ({error}); write it or copy it again") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read shape and type of an array, without its values."""
    old = np.lib.format.read_magic(stream) == (1, 0)
    shape, _, dtype = (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(stream)
    return shape, dtype
