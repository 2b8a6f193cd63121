"""Which slices to label next: those that stand for most others, by the features of a pre-trained network."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config.base import Machine
from ssmtl_toolkit.data.files import atomic_write
from ssmtl_toolkit.data.labels import file_order
from ssmtl_toolkit.data.prepare import Sliced
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import Split, part_by_patient, with_patients
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.downstream.typical import typical_slices
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.building import built
from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans, open_store
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import DatasetSpec, Scan
from ssmtl_toolkit.text import counted, printable, shortened

_BATCH = 16
_SHOWN = 10  # notes of one kind


@dataclass(frozen=True)
class Suggestion:
    """A slice to label.

    Attributes:
        row: which it is in the order of the cut.
        slice: which it is in the file's own order, as manifests count.
        count: how many slices the scan has.
        stands_for: how many slices are like it, itself included, and of how many patients.
    """

    scan: Scan
    row: int
    slice: int
    count: int
    stands_for: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Write as plain values; `slice` counts in the file's own order."""
        slices, patients = self.stands_for
        place = {"scan": self.scan.name, "patient": self.scan.patient, "slice": self.slice, "of": self.count}
        return {**place, "stands_for": slices, "patients": patients}


def suggest(
    source: Path,
    dataset: DatasetSpec,
    number: int,
    *,
    cache: Path,
    per_patient: int | None = None,
    without: Path | None = None,
    patient: str | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> list[Suggestion]:
    """Choose slices of `dataset` to label, by the pre-training in `source`; those that stand for most others first.

    Args:
        source: run folder or backbone file.
        dataset: the scans; slices that have a label already, and blank ones, are not suggested.
        number: how many slices.
        cache: folder for prepared slices.
        per_patient: how many of a patient, at most.
        without: a split, whose validation and test patients are skipped.
        patient: regex on scan names, as for `data split`.
        seed: of the clustering.
        skip_bad: continue without scans that cannot be read.
        progress: is notified of what happens, to show it.

    Raises:
        UsageError: the weights do not say which network they belong to, or so many slices cannot be suggested.
        DataError: scans cannot be used.
    """
    progress = progress or Progress()
    pretrained = Pretrained.open(source)
    if note := pretrained.chosen():
        progress.note(note)
    if not pretrained.about:
        raise UsageError(f"{printable(pretrained.file)}: does not record its network and slicing; give an ssmtl run")
    slicing = pretrained.slicing()
    if slicing.in_time:
        raise UsageError(
            f"{printable(pretrained.file)}: was pre-trained with --axis time, where whole frames are labelled, not "
            f"single slices; suggestions are for other axes"
        )
    scans = _scans(dataset, cache, without, patient, progress)
    store = open_store(scans, slicing, cache, progress, skip_bad=skip_bad)
    for line in shortened([item.reason for item in store.skipped], _SHOWN, " skipped"):
        progress.note(f"skipped: {line}")
    orders = {stored.scan.name: _order(stored.scan, slicing) for stored in store.scans if stored.scan.annotated}
    labelled = _labelled(store, orders)
    rows = np.flatnonzero(~blank_slices(store))
    owners = {name: i for i, name in enumerate(dict.fromkeys(stored.scan.patient for stored in store.scans))}
    patients = np.repeat(
        [owners[stored.scan.patient] for stored in store.scans], [stored.count for stored in store.scans]
    )
    _refuse_too_many(number, per_patient, patients[rows[~labelled[rows]]], dataset)
    features = pooled_features(pretrained, store, rows, progress)
    chosen = typical_slices(features, patients[rows], labelled[rows], number, per_patient, seed)
    progress.say(
        f"{counted(len(rows), 'slice')} of {counted(len(store.scans), 'scan')}, without "
        f"{counted(len(store.slices) - len(rows), 'blank one')}; {int(labelled[rows].sum())} are labelled"
    )
    return [_suggestion(store, int(rows[one.row]), (one.slices, one.patients), slicing) for one in chosen]


def _scans(
    dataset: DatasetSpec, cache: Path, without: Path | None, pattern: str | None, progress: Progress
) -> list[Scan]:
    """The scans to choose from, with their patients, without those of validation and test.

    Raises:
        DataError: none is left.
    """
    scans = [scan for scan in list_scans(dataset, cache) if not scan.unfit]
    split = Split.read(without) if without else None
    scans, notes = with_patients(scans, pattern or (split.pattern if split else None))
    for note in notes:
        progress.note(note)
    if split is None:
        return scans
    held = dict.fromkeys((*split.validation, *split.test), "held")
    kept = [scan for scan in scans if not part_by_patient(scan, held, split.pattern)]
    progress.note(f"{counted(len(scans) - len(kept), 'scan')} of validation and test patients skipped")
    if not kept:
        raise DataError(f"{dataset}: all of its scans are of validation or test patients of {printable(str(without))}")
    return kept


def _order(scan: Scan, slicing: Slicing) -> NDArray[np.int64]:
    volume = installed_readers().read_scan(scan, slicing.volume)
    return file_order(volume, slicing.axis)[Sliced.of(volume, slicing).source_rows]


def _labelled(store: SliceStore, orders: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Which slices of the store have a label."""
    labelled = np.zeros(len(store.slices), bool)
    for stored in store.scans:
        if stored.scan.label:
            annotated = stored.scan.annotated
            here = True if annotated is None else np.isin(orders[stored.scan.name], annotated)
            labelled[stored.start : stored.start + stored.count] = here
    return labelled


def blank_slices(store: SliceStore) -> NDArray[np.bool_]:
    """Which slices have one value only, in every channel."""
    starts = range(0, len(store.slices), _BATCH)
    parts = (store.slices[start : start + _BATCH].flatten(2) for start in starts)
    return torch.cat([part.amax(dim=2) == part.amin(dim=2) for part in parts]).all(dim=1).numpy()


def _refuse_too_many(number: int, per_patient: int | None, patients: NDArray[np.int64], dataset: DatasetSpec) -> None:
    """Refuse to suggest more slices than there are to choose from."""
    each = np.unique(patients, return_counts=True)[1]
    available = int(np.minimum(each, per_patient or len(patients)).sum())
    if number > available:
        do = "ask for fewer" if available else "give scans without labels, such as the images/ of the folder alone"
        limit = f" with --per-patient {per_patient}" if per_patient and available < len(patients) else ""
        raise UsageError(
            f"--slices {number}: {dataset} has {counted(available, 'slice')} of {counted(len(each), 'patient')} to "
            f"suggest{limit} (neither blank nor labelled); {do}"
        )


def pooled_features(
    pretrained: Pretrained, store: SliceStore, rows: NDArray[np.int64], progress: Progress
) -> NDArray[np.float32]:
    """The pooled features (n, d) of these slices.

    Raises:
        UsageError: the scans have other channels than those of the pre-training.
    """
    if pretrained.channels != store.channels:
        raise UsageError(
            f"{printable(pretrained.file)}: was trained on slices of {counted(pretrained.channels or 1, 'channel')}, "
            f"and these scans have {store.channels}; give scans with the same channels"
        )
    fabric = make_fabric(Machine(), progress)
    backbone = _network(pretrained).to(fabric.device).eval()
    found: list[Tensor] = []
    with torch.inference_mode(), foreign(f"backbone of {printable(pretrained.file)}"), fabric.autocast():
        for part in torch.from_numpy(rows).split(_BATCH):
            found.append(backbone(store.gather(part, fabric.device)).pooled.float().cpu())
    return torch.cat(found).numpy()


def _network(pretrained: Pretrained) -> Backbone:
    spec = pretrained.spec()
    assert spec is not None, "its metadata were checked"
    with hub(allowed=False):
        backbone: Backbone = built(spec, pretrained.channels or 1)
    pretrained.load_into(backbone)
    return backbone


def _suggestion(store: SliceStore, row: int, stands_for: tuple[int, int], slicing: Slicing) -> Suggestion:
    stored = next(one for one in store.scans if one.start <= row < one.start + one.count)
    order = _order(stored.scan, slicing)
    here = row - stored.start
    return Suggestion(stored.scan, here, int(order[here]), stored.count, stands_for)


def write_manifest(file: Path, suggestions: Sequence[Suggestion]) -> None:
    """Write a manifest of the scans with suggested slices; the column `label` is for who labels them.

    Raises:
        SsmtlError: it cannot be written, or a path is not UTF-8.
    """
    by_scan: dict[str, list[Suggestion]] = {}
    for one in suggestions:
        by_scan.setdefault(one.scan.name, []).append(one)
    channels = max(len(of[0].scan.paths) for of in by_scan.values())
    images = ["image", *(f"image_{number}" for number in range(2, channels + 1))]
    try:
        with (
            atomic_write(file, "choose another --out") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            table = csv.writer(stream, lineterminator="\n")
            table.writerow([*images, "label", "patient", "modality", "slices"])
            for scan, of in ((of[0].scan, of) for of in by_scan.values()):
                paths = [os.path.relpath(path.absolute(), file.absolute().parent) for path in scan.paths]
                slices = " ".join(str(number) for number in sorted(one.slice for one in of))
                table.writerow([*paths, "", scan.patient, scan.modality, slices])
    except UnicodeEncodeError:
        raise SsmtlError(f"{printable(file)}: a path or patient is not UTF-8; rename it") from None
