"""A folder or file on another machine, as fsspec sees it: what it holds, and how to get it. fsspec comes late."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import unescape
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.remote.failures import OursError, asked
from ssmtl_toolkit.remote.names import problem
from ssmtl_toolkit.text import did_you_mean, printable

AT_ONCE = 8
_VERSIONS = (  # what file systems say of a file that changes with its content
    *("ETag", "etag", "e_tag", "Content-MD5", "content_md5", "Digest", "md5Hash", "md5", "blob_id", "generation"),
    *("versionId", "VersionId", "LastModified", "Last-Modified", "last_modified", "modified", "modify", "mtime"),
    *("modificationTime", "updated", "created"),
)
_LISTS = (".csv", ".toml", ".json")  # a file that names others beside it
_HEADERS = (".hdr", ".mhd", ".nhdr")  # a file whose voxels are in another one of the same name
_DEEPEST = 50  # folders within folders
_OF_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SILENCE = 60.0  # seconds without a byte, after which a connection is given up


@dataclass(frozen=True)
class Entry:
    """A file there: its name below the folder, what it is asked for by, its size, and what changes with its content.

    `size` is None, and `version` "", if they are not known.
    """

    name: str
    asked_as: str
    size: int | None
    version: str


class Place:
    """What is at a URL, without credentials in it: they are taken from where fsspec and its packages look for them."""

    def __init__(self, url: str) -> None:
        """Raises UsageError if the URL is of no kind that is known or a package is missing, RemoteError as others."""
        self.url = self.folder = url
        self._web = url.startswith(("http://", "https://"))
        self._files = _file_system(url)
        self._root: str = self._files._strip_protocol(url)

    def entries(self) -> tuple[Iterable[Entry], str]:
        """List the files, each once, and the name of the file that the URL itself names; "" if it is a folder.

        Beside a file come those that it cannot be read without: all below its folder if it is a list of scans, those of
        its name if it is a header.

        Raises:
            RemoteError: they cannot be listed, or there is no such place; also while they are iterated.
        """
        about = asked(self.url, lambda: self._files.info(self._root))
        if self._is_folder(about):
            return self._below(self._root), ""
        self.folder = self.url.rpartition("/")[0]
        name = self._name(PurePosixPath(self._root).name)
        if not name.lower().endswith((*_LISTS, *_HEADERS)):
            return [self._entry(name, self._root, about)], name
        around = self._below(self._root.rpartition("/")[0])
        if name.lower().endswith(_HEADERS):
            stem = name.partition(".")[0]
            around = (entry for entry in around if entry.name.partition(".")[0] == stem)
        return around, name

    def get(self, entry: Entry, file: Path, stop: threading.Event, on_bytes: Callable[[int], None]) -> None:
        """Write a file to `file`; when `stop` is set it ends early, by an error.

        Raises:
            RemoteError: it cannot be had, or not all of it.
            OSError: `file` cannot be written.
        """
        heard = _callback(stop, on_bytes)

        def get() -> None:
            try:
                self._files.get_file(entry.asked_as, str(file), callback=heard)
            except OSError as error:
                if str(error.filename) == str(file) or error.errno in _OF_OUR_DISK:
                    raise OursError(error) from error
                raise
            size = file.stat().st_size
            if entry.size not in (None, size):
                raise EOFError(f"{size} of {entry.size} bytes came")

        try:
            asked(f"{self.folder}/{entry.name}", get, stop)
        except OursError as error:
            raise error.error from error

    def _is_folder(self, about: Mapping[str, Any]) -> bool:
        """Whether it is a folder; of the web, where a page lists it."""
        return about.get("mimetype") == "text/html" if self._web else about.get("type") == "directory"

    def _below(self, folder: str) -> Iterator[Entry]:
        """All files below a folder; those of the web are asked for their size and date one by one, a few at once."""
        base = f"{folder.rstrip('/')}/"
        if self._web:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                names = [unescape(str(about["name"])) for about in self._walk(base, base)]
                for name, about in zip(names, pool.map(self._about, names), strict=True):
                    yield self._entry(self._name(name[len(base) :]), name, about)
            return
        whole = self._in_one()
        abouts = asked(self.url, lambda: whole(folder, detail=True)).values() if whole else self._walk(folder, base)
        for about in abouts:
            name = str(about["name"])
            if about.get("type") == "file" and name.startswith(base) and not name.endswith("/"):
                yield self._entry(self._name(name[len(base) :]), name, about)

    def _in_one(self) -> Callable[..., Mapping[str, Any]] | None:
        """How this file system lists all below a folder in one go; None: it asks for each folder.

        fsspec's own way for those would pass over folders that cannot be listed.
        """
        from fsspec.asyn import AsyncFileSystem
        from fsspec.spec import AbstractFileSystem

        kind = type(self._files)
        general = kind._find is AsyncFileSystem._find if issubclass(kind, AsyncFileSystem) else None
        if general or (general is None and kind.find is AbstractFileSystem.find):
            return None
        find: Callable[..., Mapping[str, Any]] = self._files.find
        return find

    def _walk(self, folder: str, base: str, depth: int = 0) -> Iterator[Mapping[str, Any]]:
        """Yield what a folder and those below it hold; nothing outside of `base` is asked for."""
        for about in asked(self.url, lambda: self._files.ls(folder, detail=True)):
            name = str(about["name"])
            inside = self._name(name.rstrip("/")[len(base) :]) if name.startswith(base) else ""
            if self._web and {"?", "#"} & set(name[len(base) :]):
                continue  # another order of the same list
            if about.get("type") != "directory":
                yield about
            elif inside and not problem(inside) and depth < _DEEPEST:
                yield from self._walk(name, base, depth + 1)

    def _about(self, name: str) -> Mapping[str, Any]:
        about: Mapping[str, Any] = asked(name, lambda: self._files.info(name))
        return about

    def _name(self, name: str) -> str:
        """A name as it is written on a disk."""
        return unquote(name.replace("/./", "/").removeprefix("./"), errors="surrogateescape") if self._web else name

    def _entry(self, name: str, asked_as: str, about: Mapping[str, Any]) -> Entry:
        size = about.get("size")
        version = " ".join(str(about[key]) for key in _VERSIONS if about.get(key) not in (None, ""))
        return Entry(name, asked_as, size if isinstance(size, int) else None, version)


def _file_system(url: str) -> Any:
    if find_spec("fsspec") is None:
        raise UsageError(f"{printable(url)}: data by URL need fsspec: pip install 'ssmtl-toolkit[remote]'")
    import fsspec
    from fsspec.registry import known_implementations

    kind = url.partition("://")[0]
    try:
        cls = fsspec.get_filesystem_class(kind)
    except ValueError:
        near = did_you_mean(kind, fsspec.available_protocols())
        raise UsageError(
            f"{printable(url)}: {printable(kind)!r} is no kind of address that fsspec knows{near}"
        ) from None
    except ImportError as error:
        package = known_implementations[kind]["class"].partition(".")[0]
        todo = f"pip install {package}" if package != "fsspec" else "pip install 'ssmtl-toolkit[remote]'"
        raise UsageError(f"{printable(url)}: a package is missing ({printable(str(error))}): {todo}") from error
    return asked(url, lambda: cls(skip_instance_cache=True, **cls._get_kwargs_from_urls(url), **_options(kind)))


def _options(kind: str) -> dict[str, Any]:
    """Options of our own; those of the user, of fsspec's settings, go before them.

    Files come as they are there: a server may call `x.nii.gz` an `x.nii` that it has packed for the way.
    """
    if kind not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout
    from fsspec.config import conf

    def given(option: str) -> dict[str, Any]:
        return {**conf.get("http", {}).get(option, {}), **conf.get("https", {}).get(option, {})}

    waits = ClientTimeout(total=None, sock_connect=_SILENCE / 2, sock_read=_SILENCE)
    session = {"trust_env": True, "auto_decompress": False, "timeout": waits, **given("client_kwargs")}
    return {"client_kwargs": session, "headers": {"Accept-Encoding": "identity", **given("headers")}}


def _callback(stop: threading.Event, on_bytes: Callable[[int], None]) -> Any:
    """What a file system calls when a chunk is written, in the thread that writes it."""
    from fsspec.callbacks import Callback

    class Heard(Callback):
        def relative_update(self, inc: int = 1) -> None:
            if stop.is_set():
                raise InterruptedError("stopped")
            on_bytes(inc)

    heard: Callable[[], Any] = Heard
    return heard()
