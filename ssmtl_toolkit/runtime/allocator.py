"""Keeps the memory of large tensors for the next ones.

glibc returns every block of more than 32 MiB to the kernel when it is freed. The next tensor of that size then costs a
page fault, and a zeroed page, for each of its 4 KiB: half the time of a forward pass at 256 px (docs/speed.md).
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

import torch

_OPTIONS = {  # <malloc.h>
    -4: 0,  # M_MMAP_MAX: no block is a mapping of its own
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: what is free stays with the process
    -2: 256 * 2**20,  # M_TOP_PAD: bytes to grow by
}


def keep_memory(device: torch.device) -> bool:
    """From now on, keep freed memory in this process, if it computes on the CPU.

    Results are the same to the bit; the process stays as large as it has ever been. Nothing changes without glibc, or
    where the user has tuned it by variables.
    """
    return device.type == "cpu" and _tuned()


@cache
def _tuned() -> bool:
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  # another libc has none
    except (OSError, TypeError, AttributeError):
        return False
    return all(libc.mallopt(option, value) == 1 for option, value in _OPTIONS.items())
