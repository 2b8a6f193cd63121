"""All files and folders below a folder, by names that patterns can be matched against. Nothing is opened."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ssmtl_datasets.naming import is_volume, stem
from ssmtl_toolkit.data.files import real
from ssmtl_toolkit.data.finding import PREDICTION
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import printable


@dataclass(frozen=True)
class Entry:
    """A file of a volume, or a folder.

    `name` is its path from the folder that was given on, that folder included, with `/`, without the file's suffix.
    """

    name: str
    path: Path
    is_folder: bool


@dataclass(frozen=True)
class Tree:
    """A folder, and what is below it in the order of names."""

    root: Path
    name: str
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, root: Path) -> Tree:
        """List a folder; links to folders are followed, each folder is visited once, predictions are skipped.

        Raises:
            DataError: a folder cannot be read.
        """
        name = real(root).name
        return cls(root, name, tuple(_visit(root, name, set(), is_root=True)))

    def without(self, paths: Collection[Path]) -> Tree:
        """The same without these."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.path not in paths))

    def below(self, entry: Entry) -> str:
        """The name of an entry without that of the folder that was given."""
        return entry.name.partition("/")[2]


def _visit(folder: Path, name: str, seen: set[tuple[int, int]], *, is_root: bool) -> Iterator[Entry]:
    try:
        status = folder.stat()
        inside = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"{printable(folder)}: the folder cannot be read ({error.strerror})") from error
    identity = (status.st_dev, status.st_ino)
    if identity in seen or (not is_root and any(entry.name == PREDICTION for entry in inside)):
        return
    seen.add(identity)
    for entry in inside:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if _is_folder(entry):
            yield Entry(f"{name}/{entry.name}", path, True)
            yield from _visit(path, f"{name}/{entry.name}", seen, is_root=False)
        elif is_volume(entry.name):
            yield Entry(f"{name}/{stem(entry.name)}", path, False)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
