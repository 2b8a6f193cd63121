"""Which files and folders belong to which reader, by names and, if those do not tell, by their first bytes."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

SLICES = "slices.toml"
_DICOM = (".dcm", ".dicom", ".ima")
_OTHERS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgh", ".mgz", *_DICOM)
# Suffixes of files that are not DICOM, so that none of them is opened to check
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
_PICTURES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}
_BACKUPS = (".bak", ".old", ".orig", "~")
_INDEX = b"1.2.840.10008.1.3.10"  # Media Storage Directory, whatever the file is called
SEG = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
RTSTRUCT = ("1.2.840.10008.5.1.4.1.1.481.3",)
_CLASS = re.compile(rb"(?:\x02\0\x02\0UI..|\x08\0\x16\0(?:UI..|....))(1\.2\.840\.[\d.]+)", re.DOTALL)
_NO_SUFFIX = re.compile(r"[^.]+|.*\.\d+", re.DOTALL)  # what follows a dot may be the end of a UID
_VR = re.compile(rb"[A-Z]{2}")


def ends_in(path: Path, *suffixes: str) -> bool:
    """Whether a name has one of these endings, in any case; hidden files and macOS's `._*` companions never have."""
    return path.name.lower().endswith(suffixes) and not path.name.startswith(".")


def is_folder(path: Path) -> bool:
    """Whether it is a folder; one that cannot be accessed is not."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether it is a regular file; one that cannot be accessed is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix or, unless another format has it, by its first bytes; an index is not."""
    name = path.name.lower()
    if name.startswith(".") or name == "dicomdir":
        return False
    if name.endswith(_DICOM):
        return not is_of_class(path, *SEG, *RTSTRUCT)
    if name.endswith(_NOT_DICOM) or _is_backup(path):
        return False
    return begins_as_dicom(path, magic=not _NO_SUFFIX.fullmatch(path.name)) and not is_of_class(path, *SEG, *RTSTRUCT)


def is_of_class(path: Path, *uids: str) -> bool:
    """Whether a file is a DICOM object of one of these SOP classes, by its first bytes."""
    match = _CLASS.search(_head(path))
    return match is not None and match[1].decode() in uids


def holds_label(path: Path, *uids: str) -> Path | None:
    """Return the file of one of these SOP classes that is meant by `path`: itself, or the only file in a folder."""
    if path.name.startswith(".") or path.name.lower().endswith(_NOT_DICOM):
        return None
    if not is_folder(path):
        return path if is_of_class(path, *uids) else None
    files = [name for name, folder in _named(path) if not folder and not name.startswith(".")]
    files = [name for name in files if not name.lower().endswith(_NOT_DICOM)]
    return path / files[0] if len(files) == 1 and is_of_class(path / files[0], *uids) else None


def _head(path: Path) -> bytes:
    try:
        if not is_file(path):  # opening a pipe would wait for a writer forever
            return b""
        with path.open("rb") as file:
            return file.read(512)
    except (OSError, ValueError):
        return b""


def _is_backup(path: Path) -> bool:
    """Whether the original of a backup copy lies beside it."""
    return any(
        path.name.lower().endswith(ending) and is_file(path.with_name(path.name[: -len(ending)])) for ending in _BACKUPS
    )


def begins_as_dicom(path: Path, *, magic: bool) -> bool:
    """Whether a regular file has DICOM's magic or, unless `magic` is required, begins with group 0008 or 0002."""
    head = _head(path)
    if head[128:132] == b"DICM":
        return _INDEX not in head
    if magic:
        return False
    little = head[:2] in (b"\x08\x00", b"\x02\x00") and head[3:4] == b"\x00"
    big = head[:2] == b"\x00\x08" and head[2:3] == b"\x00"
    # next comes the value's type or, in the implicit form, its length, which is small for the first elements
    return (little or big) and bool(_VR.fullmatch(head[4:6]) or (little and head[6:8] == b"\0\0" and len(head) >= 132))


def dicom_files(folder: Path, *, first: bool = False) -> list[Path]:
    """Return the DICOM files directly in a folder, in the order of names; with `first` only one of them.

    An empty file with a suitable name counts as a slice that was lost: reading it reports that.
    """
    files: list[Path] = []
    empty: list[Path] = []
    if first:  # most are none by their names, without a look at them
        return next(([path] for path in _entries(folder) if is_dicom(path) and is_file(path)), [])
    for path in _entries(folder):
        if not is_file(path):
            continue
        if is_dicom(path):
            files.append(path)
        elif path.stat().st_size == 0:
            empty.append(path)
    suffixes = {path.suffix for path in files}
    lost = [path for path in empty if files and _is_lost(path, suffixes)]
    return sorted([*files, *lost], key=_by_name)


def _is_lost(path: Path, suffixes: Collection[str]) -> bool:
    """Whether an empty file was a slice, judged by its name."""
    name = path.name.upper()
    named = bool(_NO_SUFFIX.fullmatch(name)) or (path.suffix in suffixes and not path.name.startswith("."))
    return named and not name.startswith("DICOMDIR")


def picture_format(path: Path) -> str:
    """PNG, JPEG or TIFF by the suffix, "" for other files."""
    return next((kind for kind, suffixes in _PICTURES.items() if ends_in(path, *suffixes)), "")


def is_stack(path: Path) -> bool:
    """Whether a file is TIFF with several pages, by its suffix and the first of its directories."""
    if picture_format(path) != "TIFF" or not is_file(path):
        return False
    try:
        with path.open("rb") as file:
            return _second_page(file) > 0
    except (OSError, ValueError, OverflowError, struct.error):
        return False


def _second_page(file: BinaryIO) -> int:
    """Where the directory of the second page of a TIFF file begins; 0 if it has one page or is not TIFF."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack(f"{order or '<'}H", head[2:4])[0]
    if not order or version not in (42, 43):  # 43: BigTIFF
        return 0
    start, count, entry, offset = (4, "I", 12, "H") if version == 42 else (8, "Q", 20, "Q")
    file.seek(struct.unpack_from(f"{order}{count}", head, start)[0])
    entries = struct.unpack(f"{order}{offset}", file.read(struct.calcsize(offset)))[0]
    file.seek(entry * entries, os.SEEK_CUR)
    return int(struct.unpack(f"{order}{count}", file.read(struct.calcsize(count)))[0])


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures in a folder, in natural order; none if there are fewer than 2, or scans beside them.

    A TIFF file of several pages is a scan.
    """
    entries = _entries(folder)
    from ssmtl_toolkit.data.finding import PREDICTION  # not needed to list plugins

    if any(path.name == PREDICTION or ends_in(path, *_OTHERS) for path in entries):
        return []
    pictures = [path for path in entries if picture_format(path) and is_file(path)]
    if any(map(is_stack, pictures)):
        return []
    return sorted(pictures, key=_natural) if len(pictures) > 1 else []


def may_be_dicom(folder: Path) -> list[Path]:
    """Return the files in a folder that are DICOM or of an unknown format, by their names alone."""
    names = (name for name, is_folder in _named(folder) if not is_folder and not name.startswith("."))
    return [folder / name for name in names if not name.lower().endswith(_NOT_DICOM)]


def folders_below(folder: Path, depth: int = 2) -> Iterator[Path]:
    """Yield a folder and those below it, as deep as a series may be spread."""
    yield folder
    for name, is_folder in _named(folder) if depth else ():
        if is_folder and not name.startswith("."):
            yield from folders_below(folder / name, depth - 1)


def may_hold_parts(folder: Path) -> bool:
    """Whether the first file of at least two folders, this one and those below it, is DICOM."""
    some = (path for path in folders_below(folder) if any(map(is_dicom, may_be_dicom(path)[:1])))
    return len(list(islice(some, 2))) == 2


def _named(folder: Path) -> list[tuple[str, bool]]:
    """Return the names of files and folders in a folder, and which are folders; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries if entry.is_dir() or entry.is_file())
    except (OSError, ValueError):
        return []


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, in the order of names; nothing if it cannot be read."""
    try:
        return sorted(folder.iterdir(), key=_by_name)
    except (OSError, ValueError):
        return []


def _by_name(path: Path) -> bytes:
    return os.fsencode(path.name)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that compares numbers in names by value: slice2 comes before slice10."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(p) if i % 2 and len(p) < 1000 else 0, "" if i % 2 else p) for i, p in enumerate(pieces)], path.name


INSTALL = "pip install 'ssmtl-toolkit[formats]'"
