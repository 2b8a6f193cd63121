"""Whose a checkpoint is: the options that made it, which must be the same, and the versions, which should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.registry import OURS, our_version, registry
from ssmtl_toolkit.runtime.checkpoint import Checkpoint
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.text import printable


def versions(specs: Iterable[Spec]) -> dict[str, str]:
    """The versions of what computes: the toolkit, torch, and the distributions that these specs come from."""
    found = [registry().origin(spec) for spec in specs]
    parts = {part["distribution"]: part["version"] for part in found if part["distribution"]}
    return {**parts, OURS: our_version(), "torch": str(torch.__version__)}


def tell_changes(then: Mapping[str, Any], now: Mapping[str, Any], progress: Progress) -> None:
    """Note what is another version or machine than when a checkpoint was made."""
    for what in now:
        if what in then and then[what] != now[what]:
            progress.note(
                f"{what.replace('_', ' ')} is {now[what]}, was {printable(str(then[what]))[:100]}: the run goes on, "
                f"but not bit for bit as it would have"
            )


def refuse(checkpoint: Checkpoint, changed: Iterable[str]) -> None:
    """Refuse a checkpoint that other options made.

    Raises:
        DataError: naming the options.
    """
    listed = "; ".join(printable(change) for change in changed)
    if listed:
        raise DataError(
            f"{printable(checkpoint.path)}: is a checkpoint of another run ({listed}); bring back the checkpoints of "
            f"this run, or start a new one"
        )
