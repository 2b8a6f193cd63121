"""Files of a data folder that are never looked at, as their names say nothing, or that they are hidden."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ssmtl_datasets.naming import is_volume
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted, printable

_WORDS = frozenset({"readme", "changes", "license", "licence", "version", "dicomdir", "dirfile", "md5sums"})
_SLICE = re.compile(r"\.(dcm|dicom|ima)$", re.IGNORECASE)
_PACKED = re.compile(r"\.(dcm|dicom|ima)\.(gz|bz2|xz|zst|part|partial|crdownload|tmp)$", re.IGNORECASE)
_GROUPS = (b"\x08\0", b"\x02\0", b"\0\x08")  # what DICOM without its preamble begins with


def overlooked(root: Path, scans: Sequence[Scan]) -> list[str]:
    """A line that says how many there are below a folder, or none; `scans` are those that were found in it.

    Hidden are those that would be scans or slices without their dot. Files without an ending are slices of DICOM, and
    read with the folder that they are in, or else of no use.
    """
    places = _Places(scans)
    hidden, bare, packed = list[str](), list[str](), list[str]()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(folder, name) for name in names]
        hidden += [file.name for file in files if _is_hidden(file)]
        bare += [file.name for file in files if _is_bare(file.name) and not places.account_for(file)]
        packed += [name for name in names if _PACKED.search(name)]
    told = [
        f"{counted(len(names), what)}{how}, such as {printable(min(names))}"
        for names, what, how in (
            (hidden, "hidden file", ""),
            (bare, "file", " without an ending"),
            (packed, "slice", " packed or not whole"),
        )
        if names
    ]
    todo = "rename what is a scan, or move it into a folder of its own"
    return [f"{printable(root)}: not looked at: {'; '.join(told)}; {todo}"] if told else []


class _Places:
    """The files and folders that are scans, or named as none."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        files = {path for scan in scans for path in (*scan.paths, *scan.label_paths)}
        self._files = files
        self._slices = {path if path.is_dir() else path.parent for path in files if _holds_slices(path)}
        self._named = {scan.path for scan in scans if scan.unfit and scan.path.name == scan.name}

    def account_for(self, file: Path) -> bool:
        """Whether a file is one of them, a slice of theirs, or cannot be read."""
        above = {*file.parents}
        if file in self._files or above & self._named or not _is_file(file):
            return True
        return bool(above & self._slices) and (_is_dicom(file) or file.stat().st_size == 0)  # empty: one that was lost


def _holds_slices(path: Path) -> bool:
    return not is_volume(path.name) and (path.is_dir() or not path.exists() or _is_dicom(path))


def _is_hidden(file: Path) -> bool:
    plain = file.name.lstrip("._")
    if not file.name.startswith(".") or not plain:
        return False
    return is_volume(plain) or bool(_SLICE.search(plain)) or ("." not in plain and _is_file(file) and _is_dicom(file))


def _is_bare(name: str) -> bool:
    return "." not in name and name.lower() not in _WORDS


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()  # a pipe may never end
    except OSError:
        return False


def _is_dicom(file: Path) -> bool:
    """Whether a file begins as DICOM, or cannot be read."""
    try:
        with file.open("rb") as stream:
            head = stream.read(132)
    except OSError:
        return True
    return head[128:] == b"DICM" or head[:2] in _GROUPS
