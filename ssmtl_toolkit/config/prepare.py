"""Options of `ssmtl data prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ssmtl_toolkit.config.run import RunConfig


class PrepareConfig(RunConfig):
    """Options of `ssmtl data prepare`: those of `ssmtl run` on which its slices depend, and no more on display."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Data": ("without", "axis", "prepare", "size", "volume", "window", "normalise", "skip_bad")
    }
