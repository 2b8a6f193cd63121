"""Voxels of NRRD and MetaImage: where they lie, how they are packed, and that they are all there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.source import AGAIN, FileError, Source, blaming
from ssmtl_toolkit.data.values import check_memory, chosen
from ssmtl_toolkit.names import printable

Packing = Literal["", "gzip", "bzip2", "zlib"]


@dataclass(frozen=True)
class Voxels:
    """What a header says of its voxels.

    Attributes:
        sizes: (I, J, K), or four sizes of which `volumes` is the axis of the volumes.
        dtype: with its byte order.
        volumes: the axis of the volumes; None where there is but one.
        packing: how they are packed.
        file: the name of the file beside the header that has them; "" where they follow it.
        skip: bytes before them; -1: as many as there are before the last ones that they need.
        lines: lines before them.
    """

    sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    volumes: int | None = None
    packing: Packing = ""
    file: str = ""
    skip: int = 0
    lines: int = 0

    def read(self, header: Path, source: Source, volume: int | None, notes: list[str]) -> NDArray[Any]:
        """Return one volume (I, J, K) as stored; `source` is the header's file, where the voxels may begin.

        Raises:
            FileError, DataError: they are not all there, or take too much memory.
        """
        index = chosen(1 if self.volumes is None else self.sizes[self.volumes], volume)
        if not self.file:
            data = self._take(source, notes)
        else:
            beside = beside_of(header, self.file)
            with blaming(beside), Source(beside, plain=True) as other:
                data = self._take(other, notes)
        array = data.view(self.dtype).reshape(self.sizes, order="F")
        return array if self.volumes is None else np.asfortranarray(array.take(index, axis=self.volumes))

    def __post_init__(self) -> None:
        """Refuse sizes that no scan has."""
        if min(self.sizes) < 1:
            raise FileError(f"has no voxels: its sizes are {self.sizes}; export the scan again")
        if len(self.sizes) - (self.volumes is not None) != 3:
            raise FileError(f"has {len(self.sizes)} dimensions {self.sizes}; a scan of slices needs 3")

    def _take(self, source: Source, notes: list[str]) -> NDArray[np.uint8]:
        count = math.prod(self.sizes) * self.dtype.itemsize
        for _ in range(self.lines):
            source.line()
        if self.skip == -1 and not self.packing:
            source.skip_to(max(source.position, source.size - count))
        if self.packing:
            source.unpack(self.packing)
        begin = source.position + max(self.skip, 0)
        if begin + count > source.limit:
            raise FileError(
                f"is cut short, or its header lies: it claims {begin + count} bytes, "
                f"more than its {source.size} can be; {AGAIN}"
            )
        check_memory(self.sizes, self.dtype)
        source.skip_to(begin)
        data = source.fill(count)
        if surplus := source.finish(begin + count):
            if surplus >= self.sizes[0] * self.sizes[1] * self.dtype.itemsize:
                raise FileError(f"holds {surplus} bytes more than its header says: some size is wrong; {AGAIN}")
            notes.append(f"{surplus} bytes after the last voxel are ignored")
        return data


def beside_of(header: Path, name: str) -> Path:
    """The file with the voxels that a header names: beside it or below, nowhere else.

    Raises:
        FileError: it lies elsewhere, or is not there.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise FileError(f"has its voxels elsewhere ({printable(name)}); put that file beside it and mend the header")
    if not (header.parent / path).exists():
        raise FileError(f"is a header without its voxels; put {printable(name)} beside it")
    return header.parent / path


def numbers(text: str, what: str) -> tuple[float, ...]:
    """Read numbers separated by blanks, commas or parentheses.

    Raises:
        FileError: naming `what`.
    """
    try:
        found = tuple(float(word) for word in text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    except ValueError:
        raise FileError(f"has {what} {printable(text[:60])!r}, which are no numbers; {AGAIN}") from None
    return found


def sizes_of(text: str, what: str) -> tuple[int, ...]:
    """Read whole numbers.

    Raises:
        FileError: naming `what`.
    """
    found = numbers(text, what)
    if not all(math.isfinite(x) and x.is_integer() and abs(x) < 2**40 for x in found):
        raise FileError(f"has {what} {printable(text[:60])!r}, whole numbers are needed; {AGAIN}")
    return tuple(int(x) for x in found)
