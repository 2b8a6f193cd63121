"""Files that are whole or not there, and digests of files that are read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

_BLOCK = 1 << 20
_UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(_UMASK)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving it is synced to disk and takes the place of `path`.

    After an error the temporary file is gone and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:80]}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield temporary
        share(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def real(path: Path) -> Path:
    """The path behind all links; of a link that leads to itself, that link."""
    return Path(os.path.realpath(path))


def share(path: Path) -> None:
    """Give a file the permissions of any new file; safetensors makes its own readable by the owner alone."""
    path.chmod(0o666 & ~_UMASK)


def sync(path: Path) -> None:
    """Wait until a file's or folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def digest(path: Path) -> str:
    """sha256 of a file's content; of a folder, of its files' names and contents."""
    total = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(path)}\0{digest(file)}\0".encode(errors="surrogateescape"))
        return total.hexdigest()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


class DigestMemo:
    """Digests by path, kept between runs; a file is read again when its size, times or inode have changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, list[Any]] = self._load()
        self._new: dict[str, list[Any]] = {}

    def _load(self) -> dict[str, list[Any]]:
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a memo that is missing or damaged only costs time
            return {}
        return known if isinstance(known, dict) else {}

    def __call__(self, path: Path) -> str:
        """Return the digest of `path`, from memory where the file looks unchanged."""
        if path.is_dir():
            return digest(path)
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        name = os.fsencode(path.absolute()).hex()
        if name in self._known and self._known[name][:-1] == state:
            return str(self._known[name][-1])
        value = digest(path)
        self._new[name] = [*state, value]
        return value

    def save(self) -> None:
        """Add what was new to the file, together with what other processes have added meanwhile."""
        if self._new:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._file}.lock"):
                write_json(self._file, {**self._load(), **self._new})
