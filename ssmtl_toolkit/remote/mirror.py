"""A mirror of what is at a URL, in the cache: files that are the same there are not fetched again."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ssmtl_toolkit.data.files import Waiting, atomic_write, holding
from ssmtl_toolkit.data.users import use, use_cache, users
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.remote.failures import RemoteError
from ssmtl_toolkit.remote.names import alike, folders_too, is_hidden, is_never_read, problem
from ssmtl_toolkit.remote.place import AT_ONCE, Entry, Place
from ssmtl_toolkit.text import counted, duration, listed, printable, sized

ROOM = "remote"
"""The folder of a cache that holds mirrors, one for each URL."""

COMPLETE = "complete"
"""A file in a mirror that holds all that was listed; its time is when it was last compared."""

_KNOWN = "files.jsonl"
_LOCK = ".lock"
_TODO = "choose another --cache"
_SILENCE = 10.0  # seconds that nothing need be said


@dataclass(frozen=True)
class Kept:
    """What a file was like there when it was fetched, and here afterwards."""

    size: int | None
    version: str
    size_here: int
    time_here: int

    def is_still(self, entry: Entry, file: Path) -> bool:
        """Whether neither the file there nor the one here has changed since."""
        if not entry.version or (entry.size, entry.version) != (self.size, self.version):
            return False
        with contextlib.suppress(OSError):
            status = file.lstat()
            state = status.st_size, status.st_mtime_ns
            return stat.S_ISREG(status.st_mode) and state == (self.size_here, self.time_here)
        return False


class Mirror:
    """A folder of the cache for one URL; `files` are in it, under their names there."""

    def __init__(self, url: str, cache: Path, waiting: Waiting) -> None:
        """It need not exist yet."""
        self.url, self._cache, self._waiting = url, cache, waiting
        self.folder = cache / ROOM / hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:16]
        self.files = self.folder / "files"
        self._known: dict[str, Kept] = {}

    def update(self, is_read: Callable[[str], bool]) -> Path:
        """Fetch what is new or changed there, and remove what is no longer there.

        Args:
            is_read: whether a reader may want a file of this name.

        Returns:
            The folder of the files, or the one file that the URL names.

        Raises:
            UsageError: the URL is of no kind that is known, or a package is missing.
            RemoteError: it cannot be listed, or a file cannot be fetched.
            DataError: there is nothing to read, or other processes use what has changed.
            UnwritableError: the cache cannot be written.
        """
        with writable(self.folder, _TODO, "the cache ", strangers=True):
            use_cache(self._cache, self._waiting)
            self.folder.mkdir(parents=True, exist_ok=True)
            with holding(self.folder / _LOCK, self._waiting):
                users(self.folder)  # removes the marks of the dead
                self._known = self._read()
                place, entries, only = self._listed()
                self.files = self.folder / "files" / _folder_name(place.folder)
                wanted = self._wanted(entries, is_read)
                self._remove({entry.name for entry in wanted})
                self._fetch(place, [entry for entry in wanted if not self._is_here(entry)])
                self._finish(self.files / only)
                use(self.folder)
        return self.files / only

    def _listed(self) -> tuple[Place, list[Entry], str]:
        try:
            place = Place(self.url)
            found, only = place.entries()
            entries = []
            for entry in found:
                self._waiting.check()
                entries.append(entry)
        except RemoteError as error:
            if not error.lost or not (self.folder / COMPLETE).is_file():
                raise
            raise RemoteError(f"{error}, or give {self._as_it_was()}", lost=True) from error
        return place, entries, only

    def _as_it_was(self) -> str:
        """What a user may give instead, and from when it is."""
        mark = self.folder / COMPLETE
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(mark.stat().st_mtime))
        given = mark.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
        return f"{printable(self.folder / given)}, which holds what was there at {day}"

    def _wanted(self, entries: list[Entry], is_read: Callable[[str], bool]) -> list[Entry]:
        """The files that can have their names here, and that a reader may want; others are noted."""
        names = [entry.name for entry in entries]
        odd = {name: problem(name) for name in names}
        odd |= dict.fromkeys(folders_too(name for name in names if not odd[name]), "is a file and a folder")
        odd |= {name: "is there twice" for name, number in _numbers(names).items() if number > 1}
        refused = [f"{printable(name)!r} ({reason})" for name, reason in odd.items() if reason]
        if refused:
            self._note(f"{counted(len(refused), 'name')} cannot be a file here, not fetched: {listed(refused, 3)}")
        kept = [entry for entry in entries if not odd[entry.name] and not is_hidden(entry.name)]
        wanted = [entry for entry in kept if not is_never_read(entry.name) or is_read(entry.name)]
        if not wanted:
            raise DataError(f"{printable(self.url)}: there is no file that could be a scan; check the address")
        if self._merges_names() and (pairs := alike(entry.name for entry in wanted)):
            raise DataError(
                f"{printable(self.url)}: {' and '.join(map(printable, pairs[0]))} differ only in upper and lower case, "
                f"and the disk of the cache does not tell them apart; {_TODO}"
            )
        if any(not entry.version for entry in wanted):
            self._note("says neither date nor version of its files, so they are fetched whenever they are used")
        return wanted

    def _merges_names(self) -> bool:
        """Whether the disk takes `a` for `A`."""
        return (self.folder / _LOCK.upper()).exists()

    def _is_here(self, entry: Entry) -> bool:
        kept = self._known.get(entry.name)
        return kept is not None and kept.is_still(entry, self.files / entry.name)

    def _fetch(self, place: Place, entries: list[Entry]) -> None:
        """Fetch files, a few at once; those that are whole stay, whatever happens to the others."""
        if not entries:
            return
        total = sum(entry.size or 0 for entry in entries)
        self._check_space(total)
        self._begin()
        getting, stop = _Getting(self, place, len(entries), total), threading.Event()
        with ThreadPoolExecutor(AT_ONCE) as pool, (self.folder / _KNOWN).open("a", encoding="utf-8") as known:
            waiting = {pool.submit(getting.one, entry, stop): entry for entry in entries}
            try:
                while waiting:
                    done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                    self._waiting.check()
                    for future in done:
                        self._remember(waiting.pop(future), future, known.write)
                    known.flush()
                    getting.tell(self._note)
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        self._note(f"{counted(len(entries), 'file')} fetched, {sized(getting.bytes)}, into {printable(self.files)}")

    def _begin(self) -> None:
        """From here on, until `_finish`, it does not hold all that is there."""
        (self.folder / COMPLETE).unlink(missing_ok=True)

    def _remember(self, entry: Entry, future: Future[None], write: Callable[[str], object]) -> None:
        future.result()
        status = (self.files / entry.name).stat()
        self._known[entry.name] = Kept(entry.size, entry.version, status.st_size, status.st_mtime_ns)
        write(_line(entry.name, self._known[entry.name]))

    def _check_space(self, total: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if total > free:
            raise SsmtlError(
                f"{printable(self.url)}: {sized(total)} are to be fetched into {printable(self.folder)}, and "
                f"{sized(free)} are free there; free some space, or {_TODO}"
            )

    def check_alone(self, what: str) -> None:
        """Refuse a change of what other processes read.

        Raises:
            DataError: naming them.
        """
        if others := users(self.folder, others=True):
            raise DataError(
                f"{printable(self.url)}: {what} there, and process {', '.join(map(str, others))} uses what was fetched "
                f"before; wait for it to end, or {_TODO}"
            )

    def _remove(self, wanted: set[str]) -> None:
        """Remove files that are no longer there, or were left by others, and folders without files."""
        top = self.folder / "files"
        gone = [path for path in top.rglob("*") if path.is_symlink() or not path.is_dir()]
        gone = [path for path in gone if not (path.is_relative_to(self.files) and self._name(path) in wanted)]
        if gone:
            self.check_alone(f"{printable(gone[0].name)} is no longer")
            self._begin()
            self._note(f"{counted(len(gone), 'file')} removed here, no longer there")
        for path in gone:
            path.unlink()
        self._known = {name: kept for name, kept in self._known.items() if name in wanted}
        for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.files).as_posix()

    def _finish(self, given: Path) -> None:
        """Write what is known in one go, and that it is all."""
        text, journal = "".join(_line(name, kept) for name, kept in self._known.items()), self.folder / _KNOWN
        if not journal.is_file() or text.encode() != journal.read_bytes():
            with atomic_write(journal, _TODO, "the cache ") as half:
                half.write_text(text, encoding="utf-8")
        with atomic_write(self.folder / COMPLETE, _TODO, "the cache ", synced=False) as half:
            half.write_text(f"{given.relative_to(self.folder)}\n", encoding="utf-8", errors="surrogateescape")

    def _read(self) -> dict[str, Kept]:
        """What is known of the files; a line that is not whole is not believed."""
        known = {}
        with contextlib.suppress(OSError):
            for line in (self.folder / _KNOWN).read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError, RecursionError):
                    name, *values = json.loads(line)
                    known[str(name)] = Kept(*values)
        return known

    def _note(self, text: str) -> None:
        self._waiting.note(f"{printable(self.url)}: {text}")


class _SameError(Exception):
    """A file that was fetched is what is here already."""


class _Getting:
    """Files on their way, and how far they are."""

    def __init__(self, mirror: Mirror, place: Place, files: int, total: int) -> None:
        self._mirror, self._place, self._files, self._total = mirror, place, files, total
        self._lock, self._began, self._said = threading.Lock(), time.monotonic(), time.monotonic()
        self.done = self.bytes = 0

    def one(self, entry: Entry, stop: threading.Event) -> None:
        """Fetch one file; one of the same content stays as it is, with all that is known of it."""
        file = self._mirror.files / entry.name
        with contextlib.suppress(_SameError), atomic_write(file, _TODO, "the cache ") as half:
            self._place.get(entry, half, stop, self._count)
            if file.is_file() and not file.is_symlink():
                if filecmp.cmp(file, half, shallow=False):
                    raise _SameError
                self._mirror.check_alone(f"{printable(entry.name)} has changed")
        with self._lock:
            self.done += 1

    def _count(self, number: int) -> None:
        with self._lock:
            self.bytes += number

    def tell(self, note: Callable[[str], None]) -> None:
        """Say how far it is, every now and then."""
        now = time.monotonic()
        if now - self._said < _SILENCE:
            return
        self._said = now
        of = f" of {sized(self._total)}" if self._total else ""
        rest = (now - self._began) * (self._total / max(self.bytes, 1) - 1)
        to_go = f", about {duration(rest)} to go" if self.bytes and rest > 0 else ""
        note(f"{self.done} of {self._files} files fetched, {sized(self.bytes)}{of}{to_go}")


def _folder_name(url: str) -> str:
    """What the folder with the files is called: as the one there, for layouts go by names of folders."""
    name = url.rpartition("/")[2]
    return "data" if problem(name) or is_hidden(name) else name


def _numbers(names: Iterable[str]) -> Mapping[str, int]:
    numbers: dict[str, int] = {}
    for name in names:
        numbers[name] = numbers.get(name, 0) + 1
    return numbers


def _line(name: str, kept: Kept) -> str:
    return json.dumps([name, kept.size, kept.version, kept.size_here, kept.time_here]) + "\n"
