"""Files of the cache that are sealed: what is damaged or exchanged there is noticed, and made anew."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ssmtl_toolkit.data.files import Waiting, atomic_write, checksum, holding, remove_halves
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.documents import parse_json
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.text import printable

ROOMS = ("slices", "labels", "levels", "contents")
"""The folders of the cache that hold sealed files, in folders of their own."""
LOCK = ".lock"
"""The file in such a folder that is held by whoever writes there."""
_LONGEST_HEADER = 1 << 20  # bytes; safetensors writes none of more than a few thousand here
HALVES = (".*.safetensors.*-*.part", ".tmp??????")
"""What writers leave there that are killed; the last are files of safetensors."""


@dataclass(frozen=True)
class Sealed:
    """A file of arrays in the cache, and a text by which it says what it holds, bound to its place there by `key`."""

    file: Path
    key: str

    @classmethod
    def of(cls, cache: Path, room: str, recipe: Any) -> Sealed:
        """The place in the folder `room` of what is made by this recipe, which is JSON."""
        key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
        return cls(cache / room / key[:2] / f"{key}.safetensors", key)

    def about(self) -> str | None:
        """What the file says of itself; None if it does not exist, or is damaged."""
        with contextlib.suppress(OSError, SafetensorError):
            return self._read()
        return None

    def _read(self) -> str | None:
        with safe_open(self.file, "numpy") as opened:
            metadata: dict[str, Any] = opened.metadata() or {}
        text: str = metadata.get("about", "")
        return text if metadata.get("seal") == self._seal(text) else None

    def array(self, name: str, expected: str) -> NDArray[Any] | None:
        """The array of this name, if its `checksum_of` is the expected one; None if not."""
        try:
            with safe_open(self.file, "numpy") as opened:
                array: NDArray[Any] = opened.get_tensor(name)
        except (OSError, SafetensorError):
            return None
        return array if checksum_of(array) == expected else None

    def write(self, arrays: Mapping[str, NDArray[Any]], about: str) -> None:
        """Write the file, whole or not at all; to be called by `make`'s argument.

        It is not synced: whatever a loss of power leaves is noticed by its checksums.
        """
        with atomic_write(self.file, "choose another --cache", "the cache ", synced=False) as temporary:
            save_file(dict(arrays), temporary, {"about": about, "seal": self._seal(about)})

    def make(self, make: Callable[[], None], waiting: Waiting, unless: Callable[[], bool] = lambda: False) -> None:
        """Call `make`, which writes the file, unless another process has done so while this one waited for it.

        Raises:
            SsmtlError: the cache cannot be written.
        """
        with writable(self.file.parent, "choose another --cache", "the cache "):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with holding(self.file.parent / LOCK, waiting):
                remove_halves(self.file.parent, *HALVES)
                if not unless():
                    make()

    def found(self, make: Callable[[], None], waiting: Waiting, what: str) -> str:
        """What the file says of itself; it is made first if it does not exist, or is damaged, with a note of `what`.

        Raises:
            DataError: the cache does not keep what is written to it.
            SsmtlError: the cache cannot be written, or not be read again.
        """
        about = self.about()
        if about is None:
            if self.file.exists():
                self.note_damage(waiting, what)
            self.make(make, waiting, unless=lambda: self.about() is not None)
            try:
                about = self._read()
            except (OSError, SafetensorError) as error:
                unopened = isinstance(error, FileNotFoundError) and self.file.exists()  # as safetensors says it
                why = "it cannot be opened" if unopened else printable(getattr(error, "strerror", None) or str(error))
                raise SsmtlError(
                    f"{printable(self.file)}: the cache cannot be read ({why}); choose another --cache"
                ) from error
        if about is None:
            raise DataError(
                f"{printable(self.file)}: the cache does not keep what is written to it; choose another --cache"
            )
        return about

    def note_damage(self, waiting: Waiting, what: str) -> None:
        """Say that the file is damaged, and what is made anew."""
        waiting.note(f"{printable(self.file)}: is damaged; {what} are made anew")

    def _seal(self, about: str) -> str:
        """Binds what a file says of itself to its place in the cache: exchanged files are noticed."""
        return checksum(self.key.encode(), about.encode())


def start_of(opened: FileIO, name: str) -> int:
    """Where in a file of arrays (safetensors) the numbers of the one of this name begin, in bytes.

    Raises:
        OSError, ValueError, LookupError: it is damaged, or has none.
    """
    length = int.from_bytes(opened.read(8), "little")
    header = parse_json(opened.read(min(length, _LONGEST_HEADER)).decode())
    return 8 + length + int(header[name]["data_offsets"][0])


def checksum_of(array: NDArray[Any]) -> str:
    """A checksum of an array, its type and shape."""
    return checksum(array.data, _kind(array.dtype, array.shape))


@functools.lru_cache(maxsize=64)
def _kind(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return str((dtype, shape)).encode()
