"""Which run a checkpoint belongs to: the options that made it must be the same, the versions should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.registry import our_version, registry
from ssmtl_toolkit.runtime.checkpoint import Checkpoint
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.text import printable


def versions(specs: Iterable[Spec]) -> dict[str, str]:
    """The versions of what computes: the toolkit, torch, and the distributions that these specs come from."""
    origins = [registry().origin(spec) for spec in specs]
    parts = {part["distribution"]: part["version"] for part in origins if part["distribution"]}
    return {**parts, OURS: our_version(), "torch": str(torch.__version__)}


def tell_changes(then: Mapping[str, Any], now: Mapping[str, Any], progress: Progress) -> None:
    """Note versions and machines that differ from those that made a checkpoint."""
    for what in now:
        if what in then and then[what] != now[what]:
            progress.note(
                f"{what.replace('_', ' ')} is {now[what]}, was {printable(str(then[what]))[:100]}: the run continues, "
                f"but not bit for bit as it would have"
            )


def refuse(checkpoint: Checkpoint, changed: Iterable[str]) -> None:
    """Refuse a checkpoint that other options made.

    Raises:
        DataError: naming the options.
    """
    differences = "; ".join(printable(change) for change in changed)
    if differences:
        raise DataError(
            f"{printable(checkpoint.path)}: is a checkpoint of another run ({differences}); restore the checkpoints of "
            f"this run, or start a new one"
        )
