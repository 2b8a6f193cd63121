"""The prepared slices of one scan in the cache: sealed, so that what is damaged or exchanged there is made anew."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ssmtl_toolkit.data import prepare as preparing
from ssmtl_toolkit.data.files import DigestMemo, Waiting, atomic_write, checksum, holding
from ssmtl_toolkit.data.labelmap import looks_like_labels
from ssmtl_toolkit.data.readers import Readers, digest_with, read_channels
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.source import naming_scan
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.specs import ReaderSpec, Scan
from ssmtl_toolkit.text import printable

_FORMAT = 3  # of the files here; 1 had no checksums, 2 no channels

Slices = NDArray[np.float16]


@dataclass(frozen=True)
class About:
    """What a piece says of itself beside its voxels.

    Attributes:
        voxels: checksum of the slices, their shape and type.
        sides: rows and columns of the slices, where these are not of the size that was asked for.
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

    @classmethod
    def of(cls, text: str) -> About:
        """Read what `write` has written."""
        found = json.loads(text)
        sides = tuple(found["sides"]) if found.get("sides") else None
        return cls(**{**found, "notes": tuple(found["notes"]), "sides": sides})

    def write(self) -> str:
        """The JSON text that is sealed."""
        return json.dumps(vars(self))


@dataclass(frozen=True)
class Piece:
    """The cached slices of one scan; `digests` are those of its files, `make` writes the piece anew."""

    scan: Scan
    key: str
    digests: tuple[str, ...]
    file: Path
    about: About
    make: Callable[[], None]

    def slices(self, waiting: Waiting) -> Slices:
        """Read the slices (count, channels, size, size); where they are damaged, make them anew, with a note.

        Raises:
            DataError: the scan has changed meanwhile, or the disk does not keep what is written to it.
        """
        found = self._read()
        if found is None:
            waiting.note(f"{printable(self.file)}: is damaged; the slices of {self.scan.name} are made anew")
            _write(self.file, self.make, waiting)
            found = self._read()
        if found is None:
            raise DataError(
                f"{printable(self.file)}: does not hold what was written to it, or {printable(self.scan.path)} has "
                f"changed since this start; start again, or choose another --cache"
            )
        return found

    def _read(self) -> Slices | None:
        try:
            with safe_open(self.file, "numpy") as opened:
                slices: Slices = opened.get_tensor("slices")
        except (OSError, SafetensorError):
            return None
        return slices if _checksum(slices) == self.about.voxels else None


def find_piece(
    scan: Scan, readers: Readers, slicing: Slicing, cache: Path, memo: DigestMemo, waiting: Waiting
) -> Piece:
    """Find the scan's slices in the cache, or make them.

    Raises:
        DataError: the scan cannot be read, or the cache does not keep what is written to it.
        SsmtlError: the cache cannot be written.
    """
    sources = [(path, readers.of(path)) for path in scan.paths]
    digests = tuple(digest_with(reader, path, memo) for path, reader in sources)
    read = [[digest, str(reader), reader.revision] for digest, (_, reader) in zip(digests, sources, strict=True)]
    recipe = [_FORMAT, read, preparing.REVISION, *slicing.key]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    file = cache / "slices" / key[:2] / f"{key}.safetensors"
    make = functools.partial(_make, sources, slicing, file, key)
    about = _about(file, key)
    if about is None:
        if file.exists():
            waiting.note(f"{printable(file)}: is damaged; the slices of {scan.name} are made anew")
        _write(file, make, waiting, unless=lambda: _about(file, key) is not None)
        about = _about(file, key)
        if about is None:
            raise DataError(f"{printable(file)}: the cache does not keep what is written to it; choose another --cache")
    return Piece(scan, key, digests, file, about, make)


def _write(file: Path, make: Callable[[], None], waiting: Waiting, unless: Callable[[], bool] = lambda: False) -> None:
    """Make a piece, unless another process has done so while this one waited for it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with holding(file.parent / ".lock", waiting):
            if not unless():
                make()
    except (OSError, SafetensorError) as error:
        raise SsmtlError(f"{file.parent}: the cache cannot be written ({error}); choose another --cache") from error


def _make(sources: Sequence[tuple[Path, ReaderSpec]], slicing: Slicing, file: Path, key: str) -> None:
    volume = read_channels(sources, slicing.volume)
    with naming_scan(sources[0][0]):
        made = preparing.prepare(volume, slicing)
    about = About(
        count=len(made.slices),
        channels=made.slices.shape[1],
        spacing=made.spacing,
        axis=made.axis,
        blank=made.blank,
        notes=made.notes,
        like_labels=looks_like_labels(volume),
        voxels=_checksum(made.slices),
        sides=made.sides,
    ).write()
    with atomic_write(file) as temporary:
        save_file({"slices": made.slices}, temporary, {"about": about, "seal": _seal(key, about)})


def _checksum(slices: Slices) -> str:
    return checksum(slices.data, str((slices.dtype, slices.shape)).encode())


def _seal(key: str, about: str) -> str:
    """Binds what a piece says of itself to its place in the cache: exchanged files are noticed."""
    return checksum(key.encode(), about.encode())


def _about(file: Path, key: str) -> About | None:
    """What a cached piece says of itself; None when it is not there, or damaged."""
    try:
        with safe_open(file, "numpy") as opened:
            metadata: dict[str, Any] = opened.metadata() or {}
    except (OSError, SafetensorError):
        return None
    text = metadata.get("about", "")
    return About.of(text) if metadata.get("seal") == _seal(key, text) else None
