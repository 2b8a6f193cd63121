"""Which files and folders are meant for which reader, by names and, where those do not tell, by their beginning."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

SLICES = "slices.toml"
_DICOM = (".dcm", ".dicom", ".ima")
_OTHERS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgh", ".mgz", *_DICOM)
# Endings of files that are no DICOM, so that none of them is opened to see whether it is
_NOT_DICOM = (
    *(".nii", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".zraw", ".mgh", ".mgz", ".mnc", ".par", ".rec"),
    *(".head", ".brik", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z", ".rar", ".png", ".jpg", ".jpeg"),
    *(".gif", ".bmp", ".tif", ".tiff", ".svg", ".mp4", ".avi", ".pdf", ".txt", ".md", ".log", ".csv", ".tsv", ".json"),
    *(".xml", ".html", ".htm", ".css", ".js", ".toml", ".yaml", ".yml", ".ini", ".inf", ".db", ".xls", ".xlsx", ".doc"),
    *(
        ".docx",
        ".bval",
        ".bvec",
        ".npy",
        ".npz",
        ".mat",
        ".h5",
        ".hdf5",
        ".pkl",
        ".pt",
        ".pth",
        ".ckpt",
        ".safetensors",
    ),
    *(".py", ".ipynb", ".sh", ".exe", ".dll", ".jar", ".part", ".partial", ".crdownload", ".tmp", ".lock", ".sha256"),
)
_BACKUPS = (".bak", ".old", ".orig", "~")
_INDEX = b"1.2.840.10008.1.3.10"  # Media Storage Directory, whatever the file is called
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
    """Whether a file is DICOM by its suffix or, where that is no other format's, by its beginning; an index is not."""
    name = path.name.lower()
    if name.startswith(".") or name == "dicomdir":
        return False
    if name.endswith(_DICOM):
        return True
    if name.endswith(_NOT_DICOM) or _is_backup(path):
        return False
    return begins_as_dicom(path, magic=not _NO_SUFFIX.fullmatch(path.name))


def _is_backup(path: Path) -> bool:
    """Whether the file that it is a copy of lies beside it."""
    return any(
        path.name.lower().endswith(ending) and is_file(path.with_name(path.name[: -len(ending)])) for ending in _BACKUPS
    )


def begins_as_dicom(path: Path, *, magic: bool) -> bool:
    """Whether a regular file has DICOM's magic or, unless that is needed, begins with group 0008 or 0002 without it."""
    try:
        if not is_file(path):  # opening a pipe would wait for a writer for ever
            return False
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError):
        return False
    if head[128:132] == b"DICM":
        return _INDEX not in head
    if magic:
        return False
    little = head[:2] in (b"\x08\x00", b"\x02\x00") and head[3:4] == b"\x00"
    big = head[:2] == b"\x00\x08" and head[2:3] == b"\x00"
    # then comes the value's type, or in the implicit form its length, which is small at the beginning
    return (little or big) and bool(_VR.fullmatch(head[4:6]) or (little and head[6:8] == b"\0\0" and len(head) >= 132))


def dicom_files(folder: Path, *, first: bool = False) -> list[Path]:
    """The DICOM files that lie directly in a folder, in the order of names; with `first` only one of them.

    An empty file whose name would do is taken for one that was lost: who reads it will say so.
    """
    found: list[Path] = []
    empty: list[Path] = []
    for path in _entries(folder):
        if not is_file(path):
            continue
        if is_dicom(path):
            found.append(path)
            if first:
                return found
        elif not first and path.stat().st_size == 0:
            empty.append(path)
    suffixes = {path.suffix for path in found}
    lost = [path for path in empty if found and _is_lost(path, suffixes)]
    return sorted([*found, *lost], key=_by_name)


def _is_lost(path: Path, suffixes: Collection[str]) -> bool:
    """Whether an empty file was a slice, by the name."""
    name = path.name.upper()
    named = bool(_NO_SUFFIX.fullmatch(name)) or (path.suffix in suffixes and not path.name.startswith("."))
    return named and not name.startswith("DICOMDIR")


def png_files(folder: Path) -> list[Path]:
    """The PNG files of a folder that holds slices, in natural order; none where it holds fewer than 2, or scans too."""
    found = _entries(folder)
    from ssmtl_toolkit.data.finding import PREDICTION  # not needed to list plugins

    if any(path.name == PREDICTION or ends_in(path, *_OTHERS) for path in found):
        return []
    found = [path for path in found if ends_in(path, ".png") and is_file(path)]
    return sorted(found, key=_natural) if len(found) > 1 else []


def may_be_dicom(folder: Path) -> list[Path]:
    """The files in a folder that are DICOM or of no known format, by their names alone."""
    names = (name for name, is_folder in _named(folder) if not is_folder and not name.startswith("."))
    return [folder / name for name in names if not name.lower().endswith(_NOT_DICOM)]


def folders_below(folder: Path, depth: int = 2) -> Iterator[Path]:
    """A folder and those below it, as far as the parts of a series are looked for."""
    yield folder
    for name, is_folder in _named(folder) if depth else ():
        if is_folder and not name.startswith("."):
            yield from folders_below(folder / name, depth - 1)


def may_hold_parts(folder: Path) -> bool:
    """Whether at least two folders below this one begin with a DICOM file."""
    some = (path for path in folders_below(folder) if any(map(is_dicom, may_be_dicom(path)[:1])))
    return len(list(islice(some, 2))) == 2


def _named(folder: Path) -> list[tuple[str, bool]]:
    """The names of files and folders in a folder, and whether they are folders; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry.name, entry.is_dir()) for entry in found if entry.is_dir() or entry.is_file())
    except (OSError, ValueError):
        return []


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, in the order of names; nothing if it cannot be read."""
    try:
        return sorted(folder.iterdir(), key=_by_name)
    except (OSError, ValueError):
        return []


def _by_name(path: Path) -> bytes:
    return os.fsencode(path.name)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Order names so that numbers in them count: slice2 comes before slice10."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(p) if i % 2 and len(p) < 1000 else 0, "" if i % 2 else p) for i, p in enumerate(pieces)], path.name


INSTALL = "pip install 'ssmtl-toolkit[formats]'"
