"""Files that are whole or not there, locks that say what they wait for, and digests of files that are read once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from filelock import BaseFileLock, FileLock, Timeout

from ssmtl_toolkit.disk import half_of, writable
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.text import printable

_BLOCK = 1 << 20
_PATIENCE = 5.0  # seconds to wait for a lock before saying so
_UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_write(
    path: Path, todo: str = "choose another folder", what: str = "", *, synced: bool = True
) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving it is synced to disk and takes the place of `path`.

    After an error the temporary file is gone and `path` is as it was. What is not `synced` may be damaged after a loss
    of power: that is for files whose content is checked whenever they are read.

    Raises:
        UnwritableError: `what` cannot be written, and what to do; as `writable`.
    """
    temporary = half_of(path)
    with writable(path, todo, what):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            share(temporary)
            if synced:
                sync(temporary)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if synced:
            sync(path.parent)


def remove_halves(folder: Path, *patterns: str) -> None:
    """Remove what writers that were killed have left in `folder`; to be called by whoever alone may write there."""
    for half in (file for pattern in patterns for file in folder.glob(pattern)):
        with contextlib.suppress(OSError):
            half.unlink()


def real(path: Path) -> Path:
    """The path behind all links; of a link that leads to itself, that link."""
    return Path(os.path.realpath(path))


def is_below(path: Path, root: Path) -> bool:
    """Whether a path is below a folder, by its name."""
    return path.absolute().is_relative_to(root.absolute()) or path.is_relative_to(real(root))


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


@dataclass(frozen=True)
class Waiting:
    """What to do while something is waited for: `check` raises when it is time to leave, `note` tells the user."""

    check: Callable[[], None] = lambda: None
    note: Callable[[str], None] = lambda text: None


@contextlib.contextmanager
def holding(file: Path, waiting: Waiting) -> Iterator[None]:
    """Hold a lock file; waiting for another process is noted after some seconds, and can be interrupted.

    Raises:
        OSError: the lock file cannot be made.
    """
    lock, until = FileLock(file), time.monotonic() + _PATIENCE
    while not _acquired(lock):
        waiting.check()
        if time.monotonic() > until:
            waiting.note(f"{printable(file)}: this lock is held by another process; waiting for it")
            until = math.inf
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        return False
    return True


def checksum(*parts: bytes | memoryview) -> str:
    """A digest that notices damage at the speed of memory; it is no protection against a forger."""
    total = xxhash.xxh3_128()
    for part in parts:
        total.update(part)
        total.update(b"\0")
    return total.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all; raises what `atomic_write` does."""
    with atomic_write(path) as temporary:
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
    """What was found in files, kept between runs; one is read again when its size, times or inode have changed.

    A program cannot change a file without changing one of these (the time of the last change of its state cannot be
    set). Each entry carries a checksum of its own: one that is damaged is not believed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = self._load()
        self._new: dict[str, list[Any]] = {}

    def _load(self) -> dict[str, Any]:
        """The entries, whole or not: each is looked at when it is asked for, and replaced when it is not whole."""
        try:
            known = read_json(self._file)
        except (OSError, ValueError):  # a memo that is missing or damaged only costs time
            return {}
        return known if isinstance(known, dict) else {}

    def __call__(self, path: Path, read: Callable[[Path], str] = digest) -> str:
        """Return the sha256 of a file or folder, or what else `read` finds in it: one thing for each path."""
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return read(path)
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        name = os.fsencode(path.absolute()).hex()
        known: Any = self._known.get(name)
        if _is_whole(name, known) and known[:4] == state:
            return str(known[4])
        entry = [*state, read(path)]
        self._new[name] = [*entry, _seal(name, entry)]
        return str(entry[-1])

    def take(self) -> dict[str, list[Any]]:
        """What was new since the last time, for `add` of another process's memo; `save` will not write it."""
        new, self._new = self._new, {}
        self._known.update(new)
        return new

    def add(self, entries: Mapping[str, list[Any]]) -> None:
        """Add what another process has found."""
        self._known.update(entries)
        self._new.update(entries)

    def save(self) -> str:
        """Add what was new to the file, together with what other processes have added meanwhile.

        Returns:
            Why that could not be done, which costs the next start some time; else "".
        """
        try:
            if self._new:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{self._file}.lock", timeout=_PATIENCE):
                    remove_halves(self._file.parent, f".{self._file.name}.*-*.part")
                    write_json(self._file, {**self._load(), **self._new})
        except (OSError, Timeout) as error:
            return f"{printable(self._file)}: could not be written ({error}); the next start reads all scans again"
        return ""


def _seal(name: str, entry: list[Any]) -> str:
    return checksum(name.encode(errors="surrogatepass"), json.dumps(entry).encode())


def _is_whole(name: str, entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 6 and entry[5] == _seal(name, entry[:5])
