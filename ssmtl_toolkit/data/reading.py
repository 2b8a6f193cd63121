"""Reads a file by the first installed reader that is meant for it, and says of every fault which file it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.names import printable
from ssmtl_toolkit.specs import ReaderSpec


def reader_for(path: Path, readers: Sequence[ReaderSpec]) -> ReaderSpec:
    """Find the reader for `path` by its name.

    Raises:
        DataError: there is none.
    """
    reader = next((reader for reader in readers if reader.matches(path)), None)
    if reader is None:
        raise DataError(f"{printable(path)}: no installed reader is meant for such a file; convert it to .nii.gz")
    return reader


def read_volume(path: Path, readers: Sequence[ReaderSpec], volume: int | None = None) -> Volume:
    """Read one scan or label map; of a 4-D file the volume with index `volume`.

    Raises:
        DataError: naming the file and what is wrong with it, also where the reader itself failed.
    """
    reader = reader_for(path, readers)
    name = printable(path)
    try:
        return reader.read(path, volume)
    except DataError as error:
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}; check it and its permissions") from error
    except Exception as error:  # a fault of the reader's own, which must not hide which file it was
        said = f"reader {reader.name!r} failed with {type(error).__name__}: {printable(str(error))}"
        raise DataError(f"{name}: {said}; leave it out or tell the reader's authors") from error


def content_digest(path: Path, reader: ReaderSpec, memo: DigestMemo) -> str:
    """sha256 of all files that the reader reads for `path`, joined by +.

    Raises:
        DataError: one of them cannot be read.
    """
    try:
        return "+".join(memo(f) if f.is_file() or f.is_dir() else "not a regular file" for f in reader.files(path))
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read: {error.strerror}; check it and its permissions") from error
