"""Commands in processes of their own: wait until they say or do something, without asking again and again."""

import os
import select
import subprocess
from pathlib import Path
from typing import TextIO


def read_until(stream: TextIO, words: str) -> str:
    """Read lines until one has these words; return all that was read.

    Raises:
        AssertionError: the stream has ended before; with all that it said.
    """
    said = ""
    for line in stream:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without a word of {words!r}:\n{said}")


def wait_until_gone(pid: int, seconds: float) -> bool:
    """Wait for the end of a process, a child or not; tell whether it has ended in this time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def second_rank(first: subprocess.Popen[str]) -> int:
    """The process that the first of two ranks has started."""
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    (other,) = [int(child) for child in children if b"ssmtl_toolkit" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return other
