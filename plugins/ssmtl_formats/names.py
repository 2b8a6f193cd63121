"""Which files and folders are meant for which reader, by names and, where those do not tell, by 132 bytes."""

from __future__ import annotations

import os
import re
from pathlib import Path

SLICES = "slices.toml"
_PREDICTION = "prediction.json"
_DICOM = (".dcm", ".dicom", ".ima")
_OTHERS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgh", ".mgz", *_DICOM)
_NO_SUFFIX = re.compile(r"[^.]+|.*\.\d+", re.DOTALL)  # what follows a dot may be the end of a UID
_VR = re.compile(rb"[A-Z]{2}")


def ends_in(path: Path, *suffixes: str) -> bool:
    """Whether a name ends so, in any case; hidden files and macOS's `._*` companions do not."""
    return path.name.lower().endswith(suffixes) and not path.name.startswith(".")


def is_folder(path: Path) -> bool:
    """Whether it is a folder; one that may not be looked at is not."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether it is a regular file; one that may not be looked at is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix or, where it has none, by its beginning; the index DICOMDIR is not."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    return ends_in(path, *_DICOM) or bool(_NO_SUFFIX.fullmatch(path.name) and begins_as_dicom(path))


def begins_as_dicom(path: Path) -> bool:
    """Whether a regular file has DICOM's magic after the preamble, or without one begins with group 0008 or 0002."""
    try:
        if not is_file(path):  # opening a pipe would wait for a writer for ever
            return False
        with path.open("rb") as file:
            head = file.read(132)
    except (OSError, ValueError):
        return False
    if head[128:132] == b"DICM":
        return True
    little = head[:2] in (b"\x08\x00", b"\x02\x00") and head[3:4] == b"\x00"
    big = head[:2] == b"\x00\x08" and head[2:3] == b"\x00"
    # then comes the value's type, or in the implicit form its length, which is small at the beginning
    return (little or big) and bool(_VR.fullmatch(head[4:6]) or (little and head[6:8] == b"\0\0" and len(head) == 132))


def dicom_files(folder: Path, *, first: bool = False) -> list[Path]:
    """The DICOM files that lie directly in a folder, in the order of names; with `first` only one of them.

    An empty file whose name would do is taken for one that was lost: who reads it will say so.
    """
    found: list[Path] = []
    some = False
    for path in _entries(folder):
        if not is_file(path):
            continue
        dicom = is_dicom(path)
        if dicom or (not first and _is_lost(path)):
            found.append(path)
        some = some or dicom
        if some and first:
            break
    return found if some else []


def _is_lost(path: Path) -> bool:
    return bool(_NO_SUFFIX.fullmatch(path.name)) and path.name.upper() != "DICOMDIR" and path.stat().st_size == 0


def slice_files(folder: Path) -> list[Path]:
    """The PNG files of a folder that holds slices, in natural order; none where it holds fewer than 2, or scans too."""
    entries = _entries(folder)
    if any(path.name == _PREDICTION or ends_in(path, *_OTHERS) for path in entries):
        return []
    found = [path for path in entries if ends_in(path, ".png") and is_file(path)]
    return sorted(found, key=_natural) if len(found) > 1 else []


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    except (OSError, ValueError):
        return []


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Order names so that numbers in them count: slice2 comes before slice10."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(p) if i % 2 and len(p) < 1000 else 0, "" if i % 2 else p) for i, p in enumerate(pieces)], path.name
