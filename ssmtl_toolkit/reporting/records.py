"""What a folder records of a run: options, summary, logs, scores; a run that is under way has less of it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ssmtl_toolkit.documents import read_result, read_toml
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.runtime.folder import CONFIG, FINETUNE, HOLDER, SUMMARY
from ssmtl_toolkit.text import printable

Kind = Literal["pre-training", "fine-tuning", "comparison"]


@dataclass(frozen=True)
class Record:
    """One run on the disk.

    Attributes:
        folder: its folder.
        kind: what it is.
        names: of the comparisons in it: each has NAME.json and NAME.toml.
    """

    folder: Path
    kind: Kind
    names: tuple[str, ...] = ()

    @cached_property
    def options(self) -> dict[str, Any]:
        """What its TOML file says."""
        if self.names:
            return {name: _toml(self.folder / f"{name}.toml") for name in self.names}
        return _toml(self.folder / (CONFIG if self.kind == "pre-training" else FINETUNE))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What it wrote at its end; empty until then. Of several comparisons that of the first."""
        return self.read(f"{self.names[0]}.json" if self.names else SUMMARY)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of it; empty if it is missing or not ours."""
        return read_result(self.folder / name)

    @property
    def live(self) -> bool:
        """Whether it is under way, as far as can be told: a process of this machine must still be there."""
        holder = self.read(HOLDER)
        if not holder:
            return False
        if holder.get("host") != socket.gethostname():
            return True
        try:
            os.kill(int(holder["pid"]), 0)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True


def _toml(file: Path) -> dict[str, Any]:
    try:
        return read_toml(file)
    except (OSError, ValueError):
        return {}


def find_record(folder: Path) -> Record:
    """Tell what kind of run a folder holds.

    Raises:
        UsageError: it holds none.
    """
    if (folder / CONFIG).is_file():
        return Record(folder, "pre-training")
    if (folder / FINETUNE).is_file():
        return Record(folder, "fine-tuning")
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    names = tuple(file.stem for file in files if "tables" in Record(folder, "comparison").read(file.name))
    if names:
        return Record(folder, "comparison", names)
    raise UsageError(f"{printable(folder)}: {_no_run(folder)}")


def starting(folder: Path) -> bool:
    """Whether a command holds this folder that has not written yet what run it is."""
    return not any((folder / name).is_file() for name in (CONFIG, FINETUNE)) and Record(folder, "pre-training").live


def _no_run(folder: Path) -> str:
    """Say why a folder has no record, and what to do."""
    if not folder.is_dir():
        return "no such folder; give the folder of ssmtl run, finetune, fewshot or experiment"
    if (folder.parent / FINETUNE).is_file():
        return f"is a part of the fine-tuning {printable(folder.parent)}; give that"
    if starting(folder):
        return "the run in it still reads scans; wait until it trains, or follow it with --watch"
    return "holds no run; give the folder of ssmtl run, finetune, fewshot or experiment"
