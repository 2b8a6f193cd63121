"""The bytes of a file, unpacked and counted, and the one way to say what is wrong with them."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import printable

DEFLATE = 1032  # deflate cannot pack tighter than 1032:1, so a header that claims more is lying
AGAIN = "copy or download it again"
_CHUNK = 1 << 20
_BLANK = bytes(_CHUNK)
_SLACK = 1 << 20  # bytes that may follow the last voxel


class FileError(Exception):
    """What is wrong with the file, without its name."""


class SeveralVolumesError(FileError, DataError):
    """A file is 4-D, and nobody said which of its `volumes` is meant."""

    def __init__(self, problem: str, volumes: int) -> None:
        super().__init__(problem)
        self.volumes = volumes


class Source:
    """The bytes of a regular file, with a count of them; unless `plain`, unpacked when it is gzip whatever its name."""

    def __init__(self, path: Path, plain: bool = False) -> None:
        # stat before open: opening a fifo would wait for a writer for ever
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileError("is not a regular file (a folder, pipe or device); give the scan's own file")
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size
        self.zipped = not plain and self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        self._stream = cast("IO[bytes]", gzip.GzipFile(fileobj=self._file)) if self.zipped else self._file
        if self.zipped:
            self._refuse_packed_twice()
        self.limit = self.size * DEFLATE if self.zipped else self.size
        self.position = 0

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _refuse_packed_twice(self) -> None:
        try:
            if self.peek(2) == b"\x1f\x8b":
                raise FileError("is packed by gzip twice; unpack it once (gunzip)")
        except BaseException:
            self._file.close()
            raise

    def unpack(self, packing: Literal["gzip", "zlib"]) -> None:
        """Take the rest of a plain file as packed: from here on bytes are unpacked, and `position` counts from 0."""
        self.limit = (self.size - self.position) * DEFLATE
        packed = gzip.GzipFile(fileobj=self._file) if packing == "gzip" else _Zlib(self._file)
        self._stream = cast("IO[bytes]", packed)
        self.zipped, self.position = True, 0

    def line(self, longest: int = 1 << 16) -> bytes:
        """Read a line of a text header without its end; b"" at the end of the file too."""
        line = self._stream.readline(longest)
        self.position += len(line)
        return line.rstrip(b"\r\n")

    def peek(self, count: int) -> bytes:
        """Read up to `count` first bytes without counting them."""
        data = self._stream.read(count)
        self._stream.seek(0)
        return data

    def take(self, count: int) -> bytes:
        data = self._stream.read(count)
        self.position += len(data)
        if len(data) < count:
            raise FileError(f"is cut short: it ends after {self.position} bytes; {AGAIN}")
        return data

    def skip_to(self, position: int) -> None:
        if not self.zipped:
            self._stream.seek(position)
            self.position = position
        while self.position < position:
            self.take(min(_CHUNK, position - self.position))

    def fill(self, count: int) -> NDArray[np.uint8]:
        """Read the next `count` bytes, without paying memory for blank ones: bombs are made of those."""
        data = np.zeros(count, np.uint8)
        for at in range(0, count, _CHUNK):
            piece = self.take(min(_CHUNK, count - at))
            if len(piece) < _CHUNK or piece != _BLANK:
                data[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        return data

    def finish(self, end: int) -> int:
        """Go to the end, where gzip compares its checksum, and return how many bytes follow `end`."""
        if not self.zipped:
            self.position = max(self.size, self.position)
        while self.position <= end + _SLACK and (piece := self._stream.read(_CHUNK) if self.zipped else b""):
            self.position += len(piece)
        if self.position > end + _SLACK:
            raise FileError(f"continues for over 1 MiB after the {end} bytes that its header claims; {AGAIN}")
        return self.position - end


class _Zlib:
    """A zlib stream without gzip's header, as MetaImage has it; its checksum is compared at its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._inflate, self._rest = file, zlib.decompressobj(), b""

    def read(self, count: int) -> bytes:
        found = b""
        while len(found) < count and not self._inflate.eof:
            packed = self._rest or self._file.read(_CHUNK)
            if not packed:
                raise EOFError("the packed voxels end too early")
            found += self._inflate.decompress(packed, count - len(found))
            self._rest = self._inflate.unconsumed_tail
        return found


@contextlib.contextmanager
def naming_scan(path: Path) -> Iterator[None]:
    """Begin the message of whatever is wrong with a scan that was read, inside, with the file's name."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{printable(path)}: {error}") from error


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into one `DataError` line that begins with the file's name."""
    try:
        yield
        return
    except SeveralVolumesError as error:
        raise SeveralVolumesError(f"{printable(path)}: {error}", error.volumes) from None
    except FileError as error:
        problem = str(error)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"is damaged or cut short: gzip says {printable(str(error))!r}; {AGAIN}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}; check the path, its links and its permissions"
    except MemoryError:
        problem = "does not fit into memory; close other programs or take a smaller scan"
    except ValueError as error:  # such as a NUL in the path
        problem = f"cannot be read: {printable(str(error))}; check the path and the file"
    raise DataError(f"{printable(path)}: {problem}")
