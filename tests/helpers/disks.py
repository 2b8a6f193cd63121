"""Disks that are full."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder):
    """A file system of its own at a folder; the function sets its size in KiB."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}k", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
