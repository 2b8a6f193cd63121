"""The weights that a pre-training starts from, and what it takes over with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.files import write_json
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.folder import CHECKPOINTS, TRANSFER
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import named
from ssmtl_toolkit.text import counted, printable

_SEEN = "seen"  # in transfer.json
LEARNED = "learned"  # the same


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
    """Load the weights, and return what became of them, with the digests of the scans that they have seen, and of those
    whose labels they know.

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
    return {
        **report.to_json(),
        _SEEN: sorted(start.scans),
        LEARNED: sorted((start.learned or frozenset()) | start.probed),
    }


def keep(transfer: Mapping[str, Any], folder: Path, progress: Progress, *, resumed: bool) -> None:
    """Write what `load` returned to transfer.json, unless it is there."""
    file = folder / TRANSFER
    if read_result(file) == json.loads(json.dumps(transfer)):
        return
    if resumed:
        progress.note(f"{printable(file)}: is damaged or missing; it is written again")
    write_json(file, transfer)


def recorded(latest: checkpoint.Checkpoint, config: ResolvedRun, folder: Path) -> dict[str, Any] | None:
    """What `load` returned when the run began, as its checkpoint keeps it; None: it began with random weights.

    Raises:
        DataError: the checkpoint is of an older version, which kept it in a file only, and that is damaged.
    """
    about, file = latest.about, folder / TRANSFER
    if "transfer" in about or config.source is None:
        with checkpoint.reading(latest):
            seen_by(about.get("transfer"))
        return about.get("transfer")
    kept = read_result(file, _SEEN)
    try:
        seen_by(kept or {_SEEN: None})
    except TypeError:
        raise DataError(
            f"{printable(file)}: is damaged or missing, and says which scans the weights had seen that this run "
            f"started from; put it back from a copy, or start a new run"
        ) from None
    return kept


def seen_by(transfer: Mapping[str, Any] | None) -> list[str]:
    """Digests of the scans that the weights had seen from which a run began, in what `load` returned.

    Raises:
        TypeError: they are none.
    """
    seen = transfer[_SEEN] if transfer else []
    if not isinstance(seen, list) or not all(isinstance(digest, str) for digest in seen):
        raise TypeError(f"{_SEEN!r} is no list of digests")
    return seen
