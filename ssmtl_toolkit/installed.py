"""Which plugins are installed, without importing any of them."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points

GROUP = "ssmtl"
OURS = "ssmtl-toolkit"


def points() -> list[EntryPoint]:
    """The entry points of all plugins; `SSMTL_DISABLE_PLUGINS=1` disables those that are not bundled."""
    found = list(entry_points(group=GROUP))
    return [point for point in found if distribution_of(point) == OURS] if switched_off() else found


def others() -> list[EntryPoint]:
    """Those of plugins that are not bundled."""
    return [point for point in points() if distribution_of(point) != OURS]


def distribution_of(point: EntryPoint) -> str:
    """The name of the distribution that an entry point belongs to."""
    return point.dist.name if point.dist else "?"


def switched_off() -> bool:
    """Whether plugins that are not bundled are disabled."""
    return os.environ.get("SSMTL_DISABLE_PLUGINS", "") not in {"", "0"}
