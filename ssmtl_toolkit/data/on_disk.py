"""Slices that stay on disk, in the files of their scans: read when they are needed, row by row."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.files import DigestMemo, Waiting, sync
from ssmtl_toolkit.data.in_memory import Shape, bytes_of, for_each
from ssmtl_toolkit.data.pieces import Piece
from ssmtl_toolkit.data.sampling import BLOCK
from ssmtl_toolkit.data.sealed import start_of
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import printable

_AT_ONCE = 256  # slices, where many are read
_LATELY = 4 * BLOCK  # scans, after which one may have left the system's memory


class OnDisk:
    """The slices (total, C, H, W) float16 of all scans; of a tensor's ways it knows those that a store needs.

    Files are opened when some of their slices are wanted, and closed again: there may be more of them than a process
    may hold open. Threads may read at the same time.
    """

    device = torch.device("cpu")

    def __init__(self, pieces: Sequence[Piece], shape: Shape) -> None:
        self.shape = torch.Size(shape)
        self.nbytes = bytes_of(shape)
        self._files = [piece.file for piece in pieces]
        self._sides = [piece.about.sides or shape[2:] for piece in pieces]
        self._starts = np.cumsum([0, *(piece.about.count for piece in pieces)])[:-1]
        self._announced: OrderedDict[int, None] = OrderedDict()  # scans, of late
        self._data = [0] * len(pieces)  # where in its file the slices begin; 0: it was not opened yet

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: int | slice) -> Tensor:
        """A slice (C, H, W), or some that follow each other (n, C, H, W)."""
        if isinstance(place, slice):
            return self.index_select(0, torch.arange(*place.indices(len(self))))
        return self.index_select(0, torch.tensor([place]))[0]

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Read the slices `rows` (N,).

        Raises:
            DataError: a file is gone, or shorter than it was.
        """
        assert dim == 0, "slices are chosen, not parts of them"
        found = np.zeros((len(rows), *self.shape[1:]), dtype=np.float16)
        wanted = rows.numpy()
        of = np.searchsorted(self._starts, wanted, side="right") - 1
        with contextlib.ExitStack() as opened:
            files = {scan: opened.enter_context(self._open(scan)) for scan in np.unique(of).tolist()}
            places = [(scan, *self._place(row, scan)) for row, scan in zip(wanted.tolist(), of.tolist(), strict=True)]
            for scan, start, length in places:
                _announce(files[scan], start, length)
            for (scan, start, _), slices in zip(places, found, strict=True):
                self._fill(slices, files[scan], start, scan)
        return torch.from_numpy(found)

    def announce(self, rows: Tensor) -> None:
        """Let the system read all slices of the scans of these rows, which are wanted soon, in one go."""
        for scan in np.unique(np.searchsorted(self._starts, rows.numpy(), side="right") - 1).tolist():
            if scan not in self._announced:
                with self._open(scan) as file:
                    _announce(file, 0, 0)
            self._announced[scan] = self._announced.pop(scan, None)  # the newest
        while len(self._announced) > _LATELY:
            self._announced.popitem(last=False)

    def to(self, device: torch.device) -> Tensor:
        """Read all of them into the memory of a device."""
        all_of_them = torch.empty(self.shape, dtype=torch.float16, device=device)
        for start in range(0, len(self), _AT_ONCE):
            all_of_them[start : start + _AT_ONCE] = self[start : start + _AT_ONCE]
        return all_of_them

    def _open(self, scan: int) -> FileIO:
        file = self._files[scan]
        try:
            opened = FileIO(file)
            if not self._data[scan]:
                self._data[scan] = start_of(opened, "slices")
        except (OSError, ValueError, LookupError) as error:
            raise _gone(file, error) from error
        return opened

    def _place(self, row: int, scan: int) -> tuple[int, int]:
        """Where in its file a slice begins, and how many bytes it takes."""
        height, width = self._sides[scan]
        length = 2 * self.shape[1] * height * width
        return self._data[scan] + (row - int(self._starts[scan])) * length, length

    def _fill(self, slices: NDArray[np.float16], file: FileIO, start: int, scan: int) -> None:
        """Read one slice (C, h, w) into (C, H, W), whose end stays as it is."""
        height, width = self._sides[scan]
        whole = slices.shape[1:] == (height, width)
        read = slices if whole else np.empty((len(slices), height, width), dtype=np.float16)
        try:
            file.seek(start)
            if file.readinto(read.data.cast("B")) != read.nbytes:
                raise OSError("it is shorter than it was")
        except OSError as error:
            raise _gone(self._files[scan], error) from error
        if not whole:
            slices[:, :height, :width] = read


def _sync(file: Path) -> None:
    try:
        sync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # as of disks that are only read, such as images
            raise


def _announce(file: FileIO, start: int, length: int) -> None:
    """Tell the system what is read next (0: to the end): a disk, or another machine, then fetches all at once."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)


def _gone(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{printable(file)}: the slices in the cache can no longer be read ({error}): it was changed while they were "
        f"used, or its disk fails; start again (a run by --resume), which makes anew what is damaged"
    )


def on_disk(pieces: Sequence[Piece], shape: Shape, memo: DigestMemo, waiting: Waiting) -> OnDisk:
    """Leave the slices of all pieces where they are; what has changed since it was last read is looked at once.

    Raises:
        DataError: as `Piece.slices`.
    """

    def checksum(piece: Piece) -> str:
        with writable(piece.file, "choose another --cache", "the cache "):
            _sync(piece.file)  # the memo is believed after a loss of power, too
        return piece.checksum()

    def check(piece: Piece) -> None:
        if memo(piece.file, lambda _: checksum(piece)) != piece.about.voxels:
            piece.slices(waiting)

    for_each(len(pieces), lambda i: check(pieces[i]))
    if problem := memo.save():
        waiting.note(problem)
    return OnDisk(pieces, shape)
