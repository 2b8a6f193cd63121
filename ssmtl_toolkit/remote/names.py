"""Names that a listing of another machine gives: which of them may be files in a folder here."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

_LONGEST_NAME, _LONGEST_PATH = 255, 2048  # bytes; the folder of the mirror comes before it
_NEVER_READ = (
    *(".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".bz2", ".xz", ".zst"),
    *(".html", ".htm", ".pdf", ".docx", ".xlsx", ".pptx", ".md", ".ipynb", ".py", ".sh"),
    *(".npy", ".npz", ".h5", ".hdf5", ".pt", ".pth", ".ckpt", ".pkl", ".safetensors", ".onnx", ".mp4", ".avi", ".mov"),
)


def problem(name: str) -> str:
    """Why no file in a folder here may have this name, a path with slashes; "" if one may.

    >>> [problem(name) for name in ("a/b.nii.gz", "../b.nii.gz", "/etc/b.nii.gz")]
    ['', 'leads out of the folder', 'leads out of the folder']
    """
    parts = name.split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        return "leads out of the folder"
    try:
        sizes = [len(os.fsencode(part)) for part in parts]
    except UnicodeEncodeError:
        return "holds what is no character"
    if "\0" in name:
        return "holds a null character"
    if max(sizes) > _LONGEST_NAME or sum(sizes) + len(sizes) > _LONGEST_PATH:
        return "is too long"
    return ""


def is_hidden(name: str) -> bool:
    """Whether a part of a path begins with a dot: readers skip such files."""
    return any(part.startswith(".") for part in name.split("/"))


def is_never_read(name: str) -> bool:
    """Whether the ending is one that no bundled reader and no layout takes, such as that of an archive."""
    return name.lower().endswith(_NEVER_READ)


def folders_too(names: Iterable[str]) -> set[str]:
    """Those of the names that are a folder in others: a bucket may hold `a` and `a/b`, a disk may not."""
    known = set(names)
    return {str(parent) for name in known for parent in PurePosixPath(name).parents} & known


def alike(names: Iterable[str]) -> list[Sequence[str]]:
    """Groups of paths that are one file, or have one folder, on a disk that does not tell `A` from `a`."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        for path in (PurePosixPath(name), *PurePosixPath(name).parents[:-1]):
            groups[unicodedata.normalize("NFC", str(path)).casefold()].add(str(path))
    return [sorted(group) for group in groups.values() if len(group) > 1]
