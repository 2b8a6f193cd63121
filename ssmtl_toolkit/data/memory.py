"""How much memory there is, on this machine or in this container, and whether a scan fits into it."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.text import sizes_text

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (  # of control groups, version 2 and 1: what may be used, and what is
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
NARROWED = ("uint32", "int64", "uint64", "float64")  # `values.clean` makes 32 bits of these


def free_memory() -> int:
    """Bytes of RAM that are free or can be freed, in this container or job."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = _machine_memory() // 2
    return min([free, *(limit - used for limit, used in _cgroups())])


def whole_memory() -> int:
    """Bytes of RAM that this container, job or machine has."""
    return min([_machine_memory(), *(limit for limit, _ in _cgroups())])


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 34  # Windows does not tell


def _cgroups() -> list[tuple[int, int]]:
    """Limit and use of memory in the control groups that have a limit."""
    found = []
    for limit, used in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            found.append((int((_CGROUP / limit).read_text()), int((_CGROUP / used).read_text())))
    return found


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
