"""The weights that a pre-training starts from, and what it takes over with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.runtime.folder import CHECKPOINTS, TRANSFER
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import named
from ssmtl_toolkit.text import counted, printable

_SEEN = "seen"  # in transfer.json


def opened(config: ResolvedRun, folder: Path) -> Pretrained | None:
    """Read the weights to start from; None without --from, or if this run has checkpoints already."""
    if config.source is None or any((folder / CHECKPOINTS).glob("step-*")):
        return None
    return Pretrained.open(config.source, prefix=config.prefix)


def continued(config: ResolvedRun, start: Pretrained) -> ResolvedRun:
    """Take over the network and the way that slices are made, where the options do not say otherwise.

    Raises:
        UsageError: the network is not known, or it is not what the tasks need.
    """
    update: dict[str, object] = {}
    if "backbone" not in config.model_fields_set:
        spec = start.spec()
        if spec is None:
            raise UsageError(f"{printable(start.file)}: does not record which network it belongs to; give --backbone")
        update["backbone"] = spec
    if start.about:
        update |= {name: value for name, value in start.slicing() if name not in config.model_fields_set}
    update = {name: value for name, value in update.items() if name == "backbone" or name in Slicing.model_fields}
    changed = config.model_copy(update=update)
    changed.check()
    return changed


def check(start: Pretrained, config: ResolvedRun, progress: Progress) -> None:
    """Refuse weights that do not fit before scans are read, and say how slices will be made.

    Raises:
        UsageError: too few of them fit.
    """
    with foreign(f"building {named(config.backbone)}"):
        start.check_fits(config.backbone, start.channels or 1, config.min_transfer)
    if start.about:
        made = {name: value for name, value in config.slicing if value != Slicing.model_fields[name].default}
        listed = ", ".join(f"{name} {printable(str(value))}" for name, value in made.items() if name != "prepare")
        progress.say(f"slices    {listed or 'by the defaults'}: as for those weights, unless set here")


def load(start: Pretrained, backbone: Backbone, config: ResolvedRun, progress: Progress) -> dict[str, Any]:
    """Load the weights, and return what became of them, with the digests of the scans that they have seen.

    Raises:
        UsageError: too few of them fit, or they are for other channels.
    """
    if start.channels not in (None, backbone.in_channels):
        raise UsageError(
            f"{printable(start.file)}: was trained on slices of {counted(start.channels or 0, 'channel')}, and the "
            f"scans have {backbone.in_channels}; give scans with as many, or start without --from"
        )
    report = start.load_into(backbone, config.min_transfer)
    for line in report.lines():
        progress.say(line)
    return {**report.to_json(), _SEEN: sorted(start.scans)}


def earlier(folder: Path) -> list[str]:
    """Digests of the scans that the weights had seen before this run, as `load` returned them and a run keeps them."""
    seen: list[str] = read_result(folder / TRANSFER).get(_SEEN, [])
    return seen
