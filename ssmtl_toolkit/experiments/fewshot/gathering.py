"""What a comparison works with: patients to train on and to score, slices to label, and scans to pre-train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from ssmtl_toolkit.config import FewshotConfig, ResolvedFinetune
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.files import DigestMemo, atomic_write
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.downstream.gather import Gathering, Material
from ssmtl_toolkit.downstream.unlabelled import UnlabelledGathering
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.experiments.contents import short_digest
from ssmtl_toolkit.experiments.runs import Runs
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.scans import installed_readers, measured
from ssmtl_toolkit.specs import DatasetSpec, Scan


@dataclass(frozen=True)
class Gathered:
    """The scans of a comparison; everything was read, so what cannot be used is known.

    Attributes:
        split: patients of each part.
        scored: those whose scans are scored.
        training: the labelled scans of the training patients.
        slices: by scan, those that single labelled slices are drawn from.
        channels: how many the scans have.
        classes: those of the labels; None without labels.
        pool: what may be learned from without labels: all scans of the training patients, and those of --unlabelled.
    """

    split: Split
    scored: tuple[str, ...]
    training: Sequence[Scan]
    slices: dict[str, list[int]]
    channels: int
    classes: Classes | None
    pool: DatasetSpec


def gather(config: FewshotConfig, finetune: ResolvedFinetune, runs: Runs) -> Gathered:
    """Split the patients, read their labels, and list what may be learned from without labels.

    Args:
        config: the options of the comparison.
        finetune: those of a fine-tuning from scratch.
        runs: where the split and the list are written.

    Raises:
        DataError: scans, labels or split cannot be used, or there is nobody to score.
    """
    split = None if config.split is None else runs.write_split(replace(Split.read(config.split), slices=()))
    options = {"split": split, **{name: getattr(config, name) for name in _OF_THE_SPLIT}}
    finetune = finetune.model_copy(update=options)
    slicing = Slicing(**{name: getattr(finetune, name) for name in Slicing.model_fields})
    material = Gathering(finetune, slicing, None, runs.cache, runs.progress).run(None)
    parts = replace(material.split, slices=())
    scored = getattr(parts, config.score)
    if not scored:
        raise DataError(f"{config.split}: names no {config.score} patients; add them")
    slicing = measured(material.reading, material.training, runs.progress)
    which = "any" if finetune.slices == "any" else "foreground"
    return Gathered(
        parts,
        scored,
        material.training,
        {scan.name: material.contents[scan.name].slices(which) for scan in material.training},
        next(iter(material.contents.values())).channels,
        material.targets.classes,
        _pool(config, finetune, slicing, material, runs),
    )


_OF_THE_SPLIT = ("patient", "test_scans", "validation_scans", "seed")


def _pool(
    config: FewshotConfig, finetune: ResolvedFinetune, slicing: Slicing, material: Material, runs: Runs
) -> DatasetSpec:
    """A manifest of the scans that may be learned from without labels."""
    scans = _unlabelled(finetune, slicing, material, runs)
    if config.unlabelled is not None:
        more = _unlabelled(finetune.model_copy(update={"unlabelled": config.unlabelled}), slicing, material, runs)
        known = set(_digests(scans, runs.cache))
        new = [scan for scan, digest in zip(more, _digests(more, runs.cache), strict=True) if digest not in known]
        scans = [*scans, *(replace(scan, name=f"unlabelled/{scan.name}") for scan in new)]
        runs.progress.say(f"{len(new)} of {len(more)} scans of {config.unlabelled} are pre-trained on too")
    patients = {scan.name: scan.patient for scan in material.training}
    named = [replace(scan, patient=patients.get(scan.name, scan.patient), label=None) for scan in scans]
    return write_manifest(named, "unlabelled", runs)


def write_manifest(scans: Sequence[Scan], name: str, runs: Runs) -> DatasetSpec:
    """Write down scans, with labels if they have any, in a file named by its content and this name."""
    tables = [
        {
            "image": [str(path.absolute()) for path in scan.paths],
            "name": scan.name,
            "patient": scan.patient,
            **_labels(scan),
            **({"slices": list(scan.annotated)} if scan.label and scan.annotated else {}),
        }
        for scan in scans
    ]
    values = {mask.name: mask.value for scan in scans for mask in scan.masks}
    file = (runs.out / "splits" / f"{name}-{short_digest(tables)}.toml").absolute()
    if not file.is_file():
        content = {"classes": values, "scan": tables} if values else {"scan": tables}
        with atomic_write(file) as temporary:
            temporary.write_text(tomli_w.dumps(content), encoding="utf-8")
    found: DatasetSpec = registry().find(DatasetSpec, "manifest").model_validate({"file": file, "outside": True})
    return found


def _labels(scan: Scan) -> dict[str, Any]:
    """The label map or the masks of a scan, as a manifest has them."""
    if scan.masks:
        return {"masks": {mask.name: str(mask.path.absolute()) for mask in scan.masks if mask.path is not None}}
    return {"label": str(scan.label.absolute())} if scan.label else {}


def _unlabelled(finetune: ResolvedFinetune, slicing: Slicing, material: Material, runs: Runs) -> list[Scan]:
    """The scans of a data set without those of validation and test patients."""
    gathered = UnlabelledGathering(finetune, slicing, material, runs.cache, runs.progress).run()
    return [stored.scan for stored in gathered.store.scans]


def _digests(scans: Sequence[Scan], cache: Path) -> list[str]:
    readers, memo = installed_readers(), DigestMemo(cache / "digests.json")
    return [readers.digest_scan(scan, memo) for scan in scans]
