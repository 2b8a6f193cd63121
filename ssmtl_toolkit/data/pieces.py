"""The prepared slices of one scan in the cache: sealed, so that what is damaged or exchanged there is made anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data import prepare as preparing
from ssmtl_toolkit.data.files import DigestMemo, Waiting
from ssmtl_toolkit.data.labelmap import looks_like_labels
from ssmtl_toolkit.data.readers import Readers, digest_with
from ssmtl_toolkit.data.sealed import Sealed, checksum_of
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.source import naming_scan
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.documents import parse_json
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

_FORMAT = 3  # of the files here; 1 had no checksums, 2 no channels

Slices = NDArray[np.float16]


@dataclass(frozen=True)
class About:
    """What a piece says of itself beside its voxels.

    Attributes:
        voxels: checksum of the slices, their shape and type.
        sides: rows and columns of the slices, where these are not of the size that was asked for.
        frames: how many slices each sequence in time has; None: all slices are one sequence, along an axis of space.
        scan: digest of the scan's voxels; "" in pieces that version 0.1 has made.
        like_labels: why the scan looks like a label map, "" where it does not.
    """

    count: int
    channels: int
    spacing: float
    axis: str
    blank: int
    notes: tuple[str, ...]
    like_labels: str
    voxels: str
    sides: tuple[int, int] | None = None
    frames: int | None = None
    scan: str = ""

    @classmethod
    def of(cls, text: str) -> About:
        """Read what `write` has written."""
        found = parse_json(text)
        sides = tuple(found["sides"]) if found.get("sides") else None
        return cls(**{**found, "notes": tuple(found["notes"]), "sides": sides})

    def write(self) -> str:
        """The JSON text that is sealed."""
        without = {"frames"} if self.frames is None else set()  # so that pieces in space are as they always were
        return json.dumps({name: value for name, value in vars(self).items() if name not in without})


@dataclass(frozen=True)
class Piece:
    """The cached slices of one scan; `digests` are those of its files, `make` writes the piece anew."""

    scan: Scan
    digests: tuple[str, ...]
    sealed: Sealed
    about: About
    make: Callable[[], None]

    @property
    def key(self) -> str:
        """Tells files and how they were prepared: equal keys, equal slices."""
        return self.sealed.key

    @property
    def file(self) -> Path:
        """Where the slices are."""
        return self.sealed.file

    def slices(self, waiting: Waiting) -> Slices:
        """Read the slices (count, channels, size, size); where they are damaged, make them anew, with a note.

        Raises:
            DataError: the scan has changed meanwhile, or the disk does not keep what is written to it.
        """
        found = self._read()
        if found is None:
            self.sealed.note_damage(waiting, f"the slices of {self.scan.name}")
            self.sealed.make(self.make, waiting)
            found = self._read()
        if found is None:
            raise DataError(
                f"{printable(self.file)}: does not hold what was written to it, or {printable(self.scan.path)} has "
                f"changed since this start; start again, or choose another --cache"
            )
        return found

    def checksum(self) -> str:
        """Read the slices, and return their checksum: `about.voxels` if they are whole, "damaged" if not."""
        return "damaged" if self._read() is None else self.about.voxels

    def _read(self) -> Slices | None:
        return self.sealed.array("slices", self.about.voxels)


def find_piece(
    scan: Scan,
    readers: Readers,
    slicing: Slicing,
    cache: Path,
    memo: DigestMemo,
    waiting: Waiting,
    read: Callable[[Scan], Volume] | None = None,
) -> Piece:
    """Find the scan's slices in the cache, or make them; `read` reads the scan, by default with these readers.

    Raises:
        DataError: the scan cannot be read, or the cache does not keep what is written to it.
        SsmtlError: the cache cannot be written.
    """
    known = [source(path, readers, memo) for path in scan.paths]
    sealed = Sealed.of(cache, "slices", [_FORMAT, known, preparing.REVISION, *slicing.key])

    def make() -> None:
        volume = readers.read_scan(scan, slicing.volume) if read is None else read(scan)
        _make(volume, scan, slicing, sealed)

    about = About.of(sealed.found(make, waiting, f"the slices of {scan.name}"))
    return Piece(scan, tuple(str(digest) for digest, *_ in known), sealed, about, make)


def source(path: Path, readers: Readers, memo: DigestMemo) -> list[Any]:
    """What identifies a file and how it is read, as JSON; its digest comes first.

    Raises:
        DataError: it cannot be read.
    """
    reader = readers.of(path)
    return [digest_with(reader, path, memo), str(reader), reader.revision]


def _make(volume: Volume, scan: Scan, slicing: Slicing, sealed: Sealed) -> None:
    with naming_scan(scan.path):
        made = preparing.prepare(volume, slicing)
    about = About(
        count=len(made.slices),
        channels=made.slices.shape[1],
        spacing=made.spacing,
        axis=made.axis,
        blank=made.blank,
        notes=made.notes,
        like_labels=looks_like_labels(volume),
        voxels=checksum_of(made.slices),
        sides=made.sides,
        frames=made.frames,
        scan=volume.digest,
    )
    sealed.write({"slices": made.slices}, about.write())


def is_piece(text: str) -> bool:
    """Whether this is what a piece in the format of this version says of itself."""
    try:
        About.of(text)
    except (ValueError, TypeError, LookupError):
        return False
    return True
