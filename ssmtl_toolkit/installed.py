"""Which plugins are installed, without importing any of them."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint, PackageMetadata

GROUP = "ssmtl"
OURS = "ssmtl-toolkit"
_OUR_FILES = ("ssmtl_toolkit-", "ssmtl_toolkit.")  # so its metadata begin, installed and in its sources


def points() -> list[EntryPoint]:
    """The entry points of all plugins; `SSMTL_DISABLE_PLUGINS=1` disables those that are not bundled."""
    from importlib.metadata import entry_points

    found = list(entry_points(group=GROUP))
    return [point for point in found if distribution_of(point) == OURS] if switched_off() else found


def others() -> list[EntryPoint]:
    """Those of plugins that are not bundled."""
    return [point for point in points() if distribution_of(point) != OURS] if _may_be_others() else []


def _may_be_others() -> bool:
    """Whether it is worth asking: a look for the word in the files themselves takes a tenth of the time.

    What is not a plain folder of installed packages, such as a zip file or another finder's, is worth it.
    """
    if switched_off():
        return False
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
    return len(finders) != 1 or any(map(_may_hold_others, sys.path))


def _may_hold_others(place: str) -> bool:
    folder = Path(place)
    try:
        about = [entry for entry in folder.iterdir() if entry.name.lower().endswith((".dist-info", "egg-info"))]
    except OSError:
        return folder.is_file()
    return any(_names_group(entry) for entry in about if not entry.name.startswith(_OUR_FILES))


def _names_group(about: Path) -> bool:
    """Whether the entry points of a distribution, in the folder of its metadata, name our group."""
    try:
        return f"[{GROUP}]".encode() in (about / "entry_points.txt").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def distribution_of(point: EntryPoint) -> str:
    """The name of the distribution that an entry point belongs to."""
    return _metadata(point.dist)["Name"] if point.dist else "?"


def version_of(point: EntryPoint) -> str:
    """The version of the distribution that an entry point belongs to."""
    return _metadata(point.dist)["Version"] if point.dist else "?"


@cache
def _metadata(distribution: Distribution) -> PackageMetadata:
    """The metadata of a distribution, parsed once for all its entry points: a whole README stands in it."""
    return distribution.metadata


def switched_off() -> bool:
    """Whether plugins that are not bundled are disabled."""
    return os.environ.get("SSMTL_DISABLE_PLUGINS", "") not in {"", "0"}
