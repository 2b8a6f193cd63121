"""The unlabelled scans of a fine-tuning: which they are, and whether patients of validation or test are among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import part_by_patient
from ssmtl_toolkit.data.store import Skipped, SliceStore, StoredScan
from ssmtl_toolkit.downstream.gather import Material, digests_of
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.pretraining.pretrain import make_plan
from ssmtl_toolkit.runtime.folder import SUMMARY
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans, open_store
from ssmtl_toolkit.specs import Scan, TaskSpec
from ssmtl_toolkit.text import counted, printable, shortened

_HELD = ("validation", "test")
_SHOWN = 10  # notes of one kind
_ALIKE = 0.05  # standard deviations of a slice: two that differ less everywhere are one, saved twice


@dataclass(frozen=True)
class Unlabelled:
    """The slices that `--semi` learns from, and the pretext tasks that it wants.

    Attributes:
        held_out: how many scans of validation and test patients were kept from it.
        seen: how many scans of each of the parts `validation` and `test` are in it (transductive).
        skipped: scans that cannot be used, and why.
    """

    store: SliceStore
    plan: Plan
    tasks: Sequence[TaskSpec]
    held_out: int
    seen: Counter[str]
    skipped: Sequence[Skipped]

    def loader(self, config: ResolvedFinetune, seed: int, device: torch.device) -> Loader:
        """Batches of slices in turn, as many as labelled ones."""
        return Loader(self.store, Sampler(self.plan, config.batch_size, seed), device)

    @property
    def digests(self) -> list[str]:
        """16 digits each of those of the scans' files and voxels."""
        return sorted(digest[:16] for scan in self.store.scans for digest in scan.digests)

    def to_json(self) -> dict[str, Any]:
        """What is recorded of it everywhere; no names, no paths."""
        return {
            "scans": len(self.store.scans),
            "slices": len(self.store.slices),
            "held_out": self.held_out,
            **{f"{part}_seen": self.seen[part] for part in _HELD},
            "fingerprint": self.store.fingerprint,
        }


def gather_unlabelled(
    config: ResolvedFinetune, slicing: Slicing, material: Material, cache: Path, progress: Progress
) -> Unlabelled | None:
    """Find and prepare the scans for `--semi`, without those of validation and test; None without `--semi`.

    Raises:
        DataError: nothing is left to learn from, or the scans have other channels than the labelled ones.
    """
    return UnlabelledGathering(config, slicing, material, cache, progress).run() if config.semi else None


class UnlabelledGathering:
    """Gathers unlabelled scans; `material` is what is labelled."""

    def __init__(
        self, config: ResolvedFinetune, slicing: Slicing, material: Material, cache: Path, progress: Progress
    ) -> None:
        self.config, self.slicing, self.material = config, slicing, material
        self.cache, self.progress = cache, progress
        self.dataset = config.unlabelled or config.data
        self.readers: Readers = installed_readers(in_time=slicing.in_time)
        self.skipped: list[Skipped] = []

    def run(self) -> Unlabelled:
        """Gather everything; raises what `gather_unlabelled` does."""
        every = self._usable()
        parts = self._parts(every)
        store = self._stored(self._chosen(every, parts))
        again = self._saved_again(store)
        parts |= again
        if again and not self.config.transductive:
            store = self._stored(self._chosen(every, parts))
        stored = {scan.scan.name for scan in store.scans}
        seen = Counter(part for name, part in parts.items() if name in stored)
        tasks, held_out = self.config.pretext_tasks, 0 if self.config.transductive else len(parts)
        self.skipped += store.skipped
        plan = make_plan(store, tasks, self.progress) if tasks else Plan(store.extents, [{"": {}}] * len(store.scans))
        unlabelled = Unlabelled(store, plan, tasks, held_out, seen, self.skipped)
        self._tell(unlabelled)
        return unlabelled

    def _usable(self) -> list[Scan]:
        """The scans that the data set lists."""
        every = list_scans(self.dataset, self.cache, in_time=self.slicing.in_time)
        self.skipped += [Skipped(scan.name, scan.unfit) for scan in every if scan.unfit]
        fit = [scan for scan in every if not scan.unfit]
        if not fit:
            reasons = f"; {len(self.skipped)} skipped, such as {self.skipped[0].reason}" if self.skipped else ""
            raise DataError(f"{self.dataset}: holds no scan for --semi to learn from{reasons}")
        return fit

    def _parts(self, scans: Sequence[Scan]) -> dict[str, str]:
        """By name, the part of those that are of validation or test: by their patient, or the content of a file."""
        readers, memo = self.readers, DigestMemo(self.cache / "digests.json")
        patients = {patient: part for part in _HELD for patient in getattr(self.material.split, part)}
        contents = {
            readers.digest(path, memo): part
            for part in _HELD
            for scan in getattr(self.material, part)
            for path in scan.paths
        }
        parts = {}
        for scan in scans:
            by_content = (contents[one] for one in digests_of(scan, readers, memo) if one in contents)
            part = part_by_patient(scan, patients, self.material.split.pattern) or next(by_content, None)
            if part is not None:
                parts[scan.name] = part
        memo.save()
        return parts

    def _chosen(self, scans: Sequence[Scan], parts: Mapping[str, str]) -> list[Scan]:
        """All of them if `--transductive`, else those of neither part.

        Raises:
            DataError: there is none.
        """
        chosen = list(scans) if self.config.transductive else [scan for scan in scans if scan.name not in parts]
        if not chosen:
            raise DataError(
                f"{self.dataset}: all of its {counted(len(scans), 'scan')} are of validation or test patients, and "
                f"nothing is left for --semi to learn from; give other scans with --unlabelled"
            )
        return chosen

    def _stored(self, scans: Sequence[Scan]) -> SliceStore:
        """Their slices.

        Raises:
            DataError: they have other channels than the labelled scans, or cannot be read.
        """
        read = self.material.reading.decoded.scan
        store = open_store(scans, self.slicing, self.cache, self.progress, skip_bad=self.config.skip_bad, read=read)
        channels = next(iter(self.material.contents.values())).channels
        if store.channels != channels:
            raise DataError(
                f"{printable(store.scans[0].scan.path)}: has {counted(store.channels, 'channel')}, and the labelled "
                f"scans have {channels}; give --unlabelled scans with the same channels"
            )
        return store

    def _saved_again(self, store: SliceStore) -> dict[str, str]:
        """By name, the part of those whose slices are those of a validation or test scan in another file."""
        scans = {part: getattr(self.material, part) for part in _HELD}
        of_part = {scan.name: part for part in _HELD for scan in scans[part]}
        every = [scan for part in _HELD for scan in scans[part]]
        if not every:
            return {}
        read = self.material.reading.decoded.scan
        others = open_store(every, self.slicing, self.cache, Progress(), skip_bad=True, label_maps="note", read=read)
        return {
            scan.scan.name: of_part[other.scan.name]
            for scan in store.scans
            for other in others.scans
            if _are_same(store, scan, others, other)
        }

    def _tell(self, unlabelled: Unlabelled) -> None:
        """Say what is used, what is skipped, and whose it is."""
        told = self.skipped if self.config.unlabelled else unlabelled.store.skipped  # the others by the labelled scans
        for reason in shortened([item.reason for item in told], _SHOWN, f", all in {SUMMARY}"):
            self.progress.note(f"skipped: {reason}")
        if number := unlabelled.seen.total():
            named = [f"{unlabelled.seen[part]} of {part} patients" for part in _HELD if unlabelled.seen[part]]
            self.progress.note(
                f"{counted(number, 'scan')} ({' and '.join(named)}) are learned from without labels (--transductive): "
                f"the scores hold for these patients only"
            )
        without = f", without {unlabelled.held_out} of validation and test patients" if unlabelled.held_out else ""
        used = f"{counted(len(unlabelled.store.scans), 'scan')}, {counted(len(unlabelled.store.slices), 'slice')}"
        self.progress.say(f"unlabelled  {used}{without}")


def _are_same(store: SliceStore, scan: StoredScan, others: SliceStore, other: StoredScan) -> bool:
    """Whether two scans show the same, slice by slice, however each was saved."""
    if scan.count != other.count:
        return False
    if scan.sides != other.sides:
        return False
    height, width = scan.sides or (None, None)
    middle, shown = scan.count // 2, (..., slice(height), slice(width))
    return all(
        bool(
            (
                store.slices[scan.start + i : scan.start + j][shown]
                - others.slices[other.start + i : other.start + j][shown]
            )
            .abs()
            .max()
            < _ALIKE
        )
        for i, j in ((middle, middle + 1), (0, scan.count))
    )
