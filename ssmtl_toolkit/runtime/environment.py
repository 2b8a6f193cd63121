"""By what a run is computed: command, versions, machine; environment.json has an entry for each start."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import uuid
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.files import write_json
from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.places import without_secrets
from ssmtl_toolkit.registry import our_version, registry
from ssmtl_toolkit.runtime.folder import ENVIRONMENT

_FOLDERS = re.compile(r"[^\s,:;=]*/(?=[^/])")  # in front of the last name of a path
_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FOR_DEVELOPERS = re.compile(r"extra == .dev.")
_GIT_SECONDS = 5


class Environment:
    """The file environment.json of a run folder.

    It names no host, no user, and no path: of the command's paths the last name is kept; the others are in run.toml.

    Attributes:
        id: 16 hexadecimal digits, the same whenever the run is resumed.
    """

    def __init__(self, folder: Path) -> None:
        """Read what earlier starts have left."""
        self._file = folder / ENVIRONMENT
        earlier = _read(self._file)
        self.id: str = earlier.get("id") or uuid.uuid4().hex[:16]
        self._starts: list[dict[str, Any]] = list(earlier.get("starts", ()))

    def begin(self, device: str) -> None:
        """Add an entry for this start, on a device such as `cuda:0`."""
        self._starts.append(
            {
                "started": now(),
                "state": "running",
                "command": command(),
                "versions": versions(),
                "machine": machine(device),
                "git": git_state(),
            }
        )
        self._write()

    def end(self, state: str) -> None:
        """Complete the entry of this start."""
        self._starts[-1] |= {"state": state, "ended": now()}
        self._write()

    def _write(self) -> None:
        write_json(self._file, {"id": self.id, "starts": self._starts})


def command(words: list[str] | None = None) -> str:
    """The command line of this process without the folders in its paths; of another program than ssmtl its kind.

    URLs have no folders of this machine; what may be a secret in them is hidden.

    >>> command(["/usr/bin/ssmtl", "run", "--data", "/home/me/scans", "--task", "slice_siam:t=2"])
    'ssmtl run --data scans --task slice_siam:t=2'
    >>> command(["ssmtl", "run", "--from", "hf://owner/name"])
    'ssmtl run --from hf://owner/name'
    >>> command(["ssmtl", "run", "--data", "bids:s3://bucket/a/study", "--track", "mlflow:uri=https://me:key@host/a"])
    'ssmtl run --data bids:s3://bucket/a/study --track mlflow:uri=https://…@host/a'
    """
    program, *arguments = sys.argv if words is None else words
    path = Path(program)
    if path.stem != "ssmtl" and path.parts[-2:] != (OURS.replace("-", "_"), "__main__.py"):
        return "Python"
    return shlex.join(["ssmtl", *map(_recorded, arguments)])


def _recorded(word: str) -> str:
    return without_secrets(word) if "://" in word else _FOLDERS.sub("", word)


def versions() -> dict[str, str]:
    """The versions of Python, of what the toolkit requires or can use, and of all plugins."""
    lines = [line for line in requires(OURS) or () if not _FOR_DEVELOPERS.search(line)]
    names = [match[0] for line in lines if (match := _REQUIRED.match(line))]
    found = {"python": platform.python_version(), OURS: our_version()}
    for name in dict.fromkeys(names):
        with contextlib.suppress(PackageNotFoundError):
            found.setdefault(name, version(name))
    plugins = {plugin.distribution: plugin.version for plugin in registry().plugins}
    return {**plugins, **found}


def machine(device: str) -> dict[str, Any]:
    """What the run is computed on; `device` as torch calls it, "" if runs had different ones."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = {"system": platform.system(), "processor": _processor(), "cores": cores, "device": device}
    if device.startswith("cuda"):
        import torch

        about |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return about


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def git_state() -> dict[str, Any] | None:
    """The commit of the repository that the current folder is in, and whether files differ from it; None: no such."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True, timeout=_GIT_SECONDS, env=environment
    )
    return done.stdout.strip()


def now() -> str:
    """The time, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _read(file: Path) -> dict[str, Any]:
    """What the file holds; nothing if it does not exist or is not ours."""
    content = read_result(file, "id", "starts")
    known = re.fullmatch(r"[0-9a-f]{16}", str(content.get("id")))
    return content if known and isinstance(content.get("starts"), list) else {}
