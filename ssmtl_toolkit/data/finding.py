"""Finds scans below a folder: files, folders that are one scan, and folders that hold several."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import ReaderSpec
from ssmtl_toolkit.text import printable

PREDICTION = "prediction.json"
"""Beside predictions: by which model, and which value is which class. What lies beside or below it is no scan."""


@dataclass(frozen=True)
class Found:
    """A scan: what to give to the reader, the file or folder that holds it, and its name in there ("": all of it).

    `unfit` says why something that a reader matches is not a scan; `path` is then `holder`.
    """

    path: Path
    holder: Path
    part: str = ""
    unfit: str = ""


def predicted_in(file: Path, root: Path) -> Path | None:
    """The folder of predictions that a file below `root` is in, at any depth; None if there is none."""
    return _predicted(file.parent, root)


def predictions_below(root: Path) -> Callable[[Path], Path | None]:
    """`predicted_in` for many files below `root`: looks into each folder once."""
    of_folder = functools.cache(lambda folder: _predicted(folder, root))
    return lambda file: of_folder(file.parent)


def _predicted(folder: Path, root: Path) -> Path | None:
    if folder != root and root not in folder.parents:
        return None
    between = [folder, *folder.parents]
    between = between[: between.index(root) + 1]
    return next((above for above in between if (above / PREDICTION).is_file()), None)


def parts_of(holder: Path, reader: ReaderSpec | None) -> list[Found]:
    """The scans in a file or folder that this reader matches."""
    try:
        parts = {"": holder} if reader is None else reader.parts(holder)
        return [Found(path, holder, part) for part, path in parts.items()]
    except DataError as error:
        return [Found(holder, holder, unfit=str(error))]


def find(folder: Path, readers: Readers, skipped: Collection[Path] = ()) -> Iterator[Found]:
    """Every scan below `folder`, in the order of names; of `folder` itself only what lies in it is looked at.

    A folder that is one scan may hold others: its own files belong to it, its folders are looked into. Links to folders
    are followed; each folder is visited once. The parts of a scan are no scans: if one in a
    folder has files in others below it, it is found once. Those `skipped` are known already.

    Raises:
        DataError: a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    known: set[Path] = set()

    def new(scan: Found, reader: ReaderSpec) -> bool:
        """Whether it has a file that no scan of a folder before has had."""
        files: set[Path] = set()
        with contextlib.suppress(OSError):
            files.update(reader.files(scan.path))
        old = bool(files) and files <= known
        known.update(files)
        return not old

    owner = readers.match(folder)
    if owner is not None and owner.only_labels:  # a folder of label maps with a single file is not itself one
        owner = None
    if owner is not None:
        for scan in parts_of(folder, owner):
            new(scan, owner)

    def visit(here: Path, owner: ReaderSpec | None) -> Iterator[Found]:
        try:
            status = here.stat()
            entries = [
                (path, path.is_dir()) for path in sorted(here.iterdir(), key=lambda path: os.fsencode(path.name))
            ]
        except OSError as error:
            raise DataError(f"{printable(here)}: the folder cannot be read ({error.strerror})") from error
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        for entry, is_folder in entries:
            if is_folder and entry.name.startswith("."):
                continue
            skip = entry in skipped
            reader = None if skip and not is_folder else readers.match(entry)
            if reader is not None and not skip and (is_folder or reader is not owner):
                yield from (one for one in parts_of(entry, reader) if not is_folder or new(one, reader))
            if is_folder:
                yield from visit(entry, reader)

    yield from visit(folder, owner)
