"""Files of a data folder that are never looked at, as their names say nothing, or that they are hidden."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ssmtl_datasets.naming import is_volume
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted, printable

_WORDS = frozenset({"readme", "changes", "license", "licence", "version", "dicomdir", "dirfile", "md5sums"})
_DICOM = slice(128, 132)


def overlooked(root: Path, scans: Sequence[Scan]) -> list[str]:
    """A line that says how many there are below a folder, or none; `scans` are those that were found in it.

    Hidden are those that would be scans without their dot. Files without an ending are scans only of DICOM.
    """
    places = {path if path.exists() else path.parent for scan in scans for path in (*scan.paths, *scan.label_paths)}
    hidden, bare = list[str](), list[str]()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        hidden += [name for name in names if name.startswith(".") and is_volume(name.lstrip("._"))]
        if not places & {Path(folder), *Path(folder).parents}:
            bare += [name for name in names if _is_bare(name) and not _is_dicom(Path(folder, name), places)]
    told = [
        f"{counted(len(names), what)}, such as {printable(min(names))}"
        for names, what in ((hidden, "hidden file"), (bare, "file without an ending"))
        if names
    ]
    return [f"{printable(root)}: not looked at: {'; '.join(told)}; rename what is a scan"] if told else []


def _is_bare(name: str) -> bool:
    return "." not in name and name.lower() not in _WORDS


def _is_dicom(file: Path, scans: Collection[Path]) -> bool:
    """Whether a file is a scan, one of DICOM, or cannot be read."""
    try:
        if file in scans or not file.is_file():  # a pipe may never end
            return True
        with file.open("rb") as stream:
            return stream.read(_DICOM.stop)[_DICOM] == b"DICM"
    except OSError:
        return True
