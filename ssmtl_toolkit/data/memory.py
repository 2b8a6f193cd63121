"""How much memory there is, on this machine or in this container, and whether a scan fits into it."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.text import sizes_text

_CGROUP, _OURS, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")
_LIMITS = {  # of control groups, version 2 and 1: what may be used, what is, and what of that are files' contents
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
NARROWED = ("uint32", "int64", "uint64", "float64")  # `values.clean` makes 32 bits of these


def free_memory() -> int:
    """Bytes of RAM that are free or can be freed, in this container or job."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = _machine_memory() // 2
    return max(0, min([free, *(limit - used for limit, used in _cgroups())]))


@functools.cache
def whole_memory() -> int:
    """Bytes of RAM that this container, job or machine has; looked up once."""
    return min([_machine_memory(), *(limit for limit, _ in _cgroups())])


@contextlib.contextmanager
def only_new_garbage() -> Iterator[None]:
    """Where many small objects are made: the collector does not look through all imported modules again and again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 34  # Windows does not tell


def _cgroups() -> list[tuple[int, int]]:
    """Limit and use of memory in the control groups of this process that have a limit, and in those around them."""
    found = []
    for controller, (limit, used, files) in _LIMITS.items():
        for folder in _folders(controller):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
                now = int((folder / used).read_text()) - _in_files(folder, files)
                found.append((int((folder / limit).read_text()), now))
    return found


def _folders(controller: str) -> list[Path]:
    """The folder of this process's group, as far as it is to be seen here, and all above it.

    A container sees its own group as the uppermost one; a job of SLURM or systemd is a folder far below.
    """
    try:
        lines = [line.split(":", 2) for line in _OURS.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        lines = []
    top = _CGROUP / controller
    paths = [line[2].lstrip("/") for line in lines if len(line) == 3 and controller in line[1].split(",")]
    inner = [top / path for path in paths if ".." not in Path(path).parts]
    return list(
        dict.fromkeys(
            place for path in [*inner, top] for place in (path, *path.parents) if top in (place, *place.parents)
        )
    )


def _in_files(folder: Path, name: str) -> int:
    """Bytes of a group's use that are file contents, which the kernel drops when memory is wanted."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = map(str.split, (folder / "memory.stat").read_text().splitlines())
        return next(int(line[1]) for line in lines if line[:1] == [name])
    return 0


def check_memory(shape: Sequence[int], dtype: np.dtype[Any], scaled: bool = False) -> None:
    """Refuse what would take more than half of the memory of this machine or container, read and scaled.

    Raises:
        FileError: with both sizes.
    """
    copied = scaled or dtype.name in NARROWED
    needed, memory = math.prod(shape) * (dtype.itemsize + copied * 4), whole_memory()
    if needed > memory // 2:
        gib = f"{needed / 2**30:.1f} GiB of memory, more than half of this machine's {memory / 2**30:.1f}"
        raise FileError(f"needs {gib}; take a larger machine or crop the scan ({sizes_text(shape)})")
