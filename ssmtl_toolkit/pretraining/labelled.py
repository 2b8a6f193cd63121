"""The labelled slices that a pre-training is probed by: two halves of different patients, none of them tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.classes import IGNORE, Classes
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.held_out import likely_patients
from ssmtl_toolkit.data.label_pieces import LabelPiece, find_labels
from ssmtl_toolkit.data.labels import find_classes, named_classes
from ssmtl_toolkit.data.patches import middle
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.data.split import Split, choose, part_by_patient
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.runtime.checkpoint import digest_of_tensors
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import list_scans, open_store
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted, listed, printable, shortened

_PARTS = ("images", "labels")  # of a half, by which it is known again
_SHOWN = 10  # notes


@dataclass(frozen=True)
class Half:
    """Slices of some patients.

    Attributes:
        images: (n, C, size, size) float16.
        labels: (n, size, size) uint8, class indices, `IGNORE` where nobody annotated.
    """

    images: Tensor
    labels: Tensor
    patients: int


@dataclass(frozen=True)
class Labelled:
    """What a probe is fitted on and scored by.

    Attributes:
        halves: slices of some patients, and of the others.
        digests: those of the scans' files, and of their voxels.
    """

    halves: tuple[Half, Half]
    classes: Classes
    digests: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """A digest of slices, labels and classes; no names, no paths."""
        parts = {f"{name}.{i}": getattr(half, name) for i, half in enumerate(self.halves) for name in _PARTS}
        return f"{digest_of_tensors(parts)} {self.classes}"


def gather_labelled(config: ResolvedRun, channels: int, reading: Reading, progress: Progress) -> Labelled | None:
    """Find and read the slices that `--probe` names, without patients of validation and test; None without `--probe`.

    Scans that `reading` has in memory are not decoded again; it holds none afterwards.

    Raises:
        DataError: there are no labels, labels of one patient only, or scans with another number of channels.
    """
    return None if config.probe is None else LabelledGathering(config, channels, reading, progress).run()


class LabelledGathering:
    """Gathers the slices of `--probe` for a network that takes so many channels."""

    def __init__(
        self,
        config: ResolvedRun,
        channels: int,
        reading: Reading,
        progress: Progress,
        classes: Classes | None = None,
        ignore_affine: bool = False,
    ) -> None:
        """`classes`: all other values are background; None: as the data set says, or as its label maps show."""
        self.config, self.channels, self.progress = config, channels, progress
        self.reading = replace(reading, slicing=config.slicing)
        self.classes, self.ignore_affine = classes, ignore_affine
        self.readers: Readers = reading.decoded.readers
        self.patients: dict[str, str] = {}
        self.notes: list[str] = []

    def run(self) -> Labelled:
        """Gather everything; raises what `gather_labelled` does."""
        halves = self._halves(self._usable())
        store = self._store([scan for half in halves for scan in half])
        scans = [stored.scan for stored in store.scans]
        pieces = {scan.name: find_labels(scan, self.reading, ignore_affine=self.ignore_affine) for scan in scans}
        self.reading.memo.save()
        classes = (self.classes or self._classes(scans, pieces)).parts
        first, second = (self._read(store, half, pieces, classes) for half in halves)
        self._tell((first, second), classes)
        digests = tuple(digest for stored in store.scans for digest in stored.digests)
        return Labelled((first, second), classes, digests)

    def _store(self, scans: Sequence[Scan]) -> SliceStore:
        """Their slices; what is decoded is kept in memory, as labels are cut as their scan is.

        Raises:
            DataError: they have another number of channels.
        """
        store = open_store(
            scans,
            self.reading.slicing,
            self.reading.cache,
            self.progress,
            skip_bad=self.config.skip_bad,
            label_maps="note",
            read=self.reading.decoded.kept,
        )
        if store.channels != self.channels:
            raise DataError(
                f"--probe {self.config.probe}: its scans have {counted(store.channels, 'channel')}, those that are "
                f"trained on {self.channels}; give labelled scans with the same channels"
            )
        return store

    def _usable(self) -> list[Scan]:
        """The labelled scans, without those of validation and test patients."""
        assert self.config.probe is not None
        every = list_scans(self.config.probe, self.reading.cache, in_time=self.config.in_time)
        scans = [scan for scan in every if scan.label and not scan.unfit]
        if not scans:
            raise DataError(
                f"--probe {self.config.probe}: none of its {counted(len(every), 'scan')} has a label map; expected "
                f"images/ and labels/ with the same names, a dataset.json, or a manifest with the column label"
            )
        kept = self._without_held(scans)
        if len(kept) < len(scans):
            self.progress.note(
                f"{counted(len(scans) - len(kept), 'labelled scan')} of validation and test patients "
                f"{'is' if len(scans) - len(kept) == 1 else 'are'} kept from the probe"
            )
        return kept

    def _without_held(self, scans: Sequence[Scan]) -> list[Scan]:
        """Those of other patients than a split's validation and test, by name and by the content of their files."""
        if self.config.without is None:
            return list(scans)
        split = Split.read(self.config.without)
        held = dict.fromkeys((*split.validation, *split.test), "held")
        memo = DigestMemo(self.reading.cache / "digests.json")
        every = list_scans(self.config.data, self.reading.cache, in_time=self.config.in_time)
        known = [scan for scan in every if not scan.unfit]
        contents = {
            self.readers.digest(path, memo)
            for scan in known
            if part_by_patient(scan, held, split.pattern)
            for path in scan.paths
        }
        kept = [
            scan
            for scan in scans
            if not part_by_patient(scan, held, split.pattern)
            and not any(self.readers.digest(path, memo) in contents for path in scan.paths)
        ]
        memo.save()
        return kept

    def _halves(self, scans: Sequence[Scan]) -> list[list[Scan]]:
        """Part the patients by the seed; of each half as many scans as slices are wanted, of all patients in turn."""
        self.patients = {scan.name: patient for scan, patient in zip(scans, likely_patients(scans), strict=True)}
        by_patient: dict[str, list[Scan]] = {}
        for scan in scans:
            by_patient.setdefault(self.patients[scan.name], []).append(scan)
        if len(by_patient) < 2:
            raise DataError(
                f"--probe {self.config.probe}: there are labelled scans of {counted(len(by_patient), 'patient')}; two "
                f"are needed: one to fit on, one to score by"
            )
        names = sorted(by_patient)
        order = np.random.default_rng(step_seed(self.config.seed, Stream.PROBE)).permutation(len(names))
        halves = []
        for part in np.array_split(order, 2):
            in_turn = chain.from_iterable(zip_longest(*(by_patient[names[i]] for i in part)))
            halves.append([scan for scan in in_turn if scan is not None][: self.config.probe_slices])
        return halves

    def _classes(self, scans: Sequence[Scan], pieces: Mapping[str, LabelPiece]) -> Classes:
        assert self.config.probe is not None
        known = dict(self.config.probe.classes()) or named_classes(scans, self.readers).classes
        ignored = self.config.probe.ignored()
        try:
            if known:
                return Classes.parse("", known, ignored)
            return find_classes(((piece.where, piece.values) for piece in pieces.values()), ignored)[0]
        except UsageError as error:
            reason = str(error).partition(";")[0]
            raise DataError(
                f"--probe {self.config.probe}: {reason}; a manifest (.toml) with a table [classes] says which there are"
            ) from error

    def _read(
        self, store: SliceStore, scans: Sequence[Scan], pieces: Mapping[str, LabelPiece], classes: Classes
    ) -> Half:
        """The slices of one half: of each scan in turn one that shows a class, until there are enough.

        Raises:
            DataError: a label map cannot be used, or no slice shows a class.
        """
        stored = {one.scan.name: one for one in store.scans}
        scans = [scan for scan in scans if scan.name in stored]
        maps = [self._labels(pieces[scan.name], classes) for scan in scans]
        shown = [np.flatnonzero(((one > 0) & (one != IGNORE)).any(axis=(1, 2))).tolist() for one in maps]
        numbers = quotas([len(rows) for rows in shown], self.config.probe_slices)
        seed = self.config.seed
        drawn = [choose(number, shown[i], seed, Stream.PROBE, i) for i, number in enumerate(numbers)]
        if not any(drawn):
            names = listed((printable(scan.name) for scan in scans), 3)
            raise DataError(
                f"--probe {self.config.probe}: no slice of {names} shows a class; the patients are parted by chance, "
                f"give more labelled scans or another --seed"
            )
        rows = [stored[scan.name].start + row for scan, few in zip(scans, drawn, strict=True) for row in few]
        labels = np.concatenate([one[few] for one, few in zip(maps, drawn, strict=True)])
        patients = {self.patients[scan.name] for scan, few in zip(scans, drawn, strict=True) if few}
        return Half(store.picked(store.slices, torch.tensor(rows)).clone(), torch.from_numpy(labels), len(patients))

    def _labels(self, piece: LabelPiece, classes: Classes) -> NDArray[np.uint8]:
        """Class indices (S, size, size) of a scan's slices, in the order of the cut; of patches those in the middle."""
        meant = piece.meant(classes, "background" if self.classes else "refuse")
        self.notes += [f"{piece.where}: {note}" for note in meant.notes]
        labels, slicing = piece.slices(meant), self.config.slicing
        return middle(labels, slicing.size) if slicing.patches else labels

    def _tell(self, halves: Sequence[Half], classes: Classes) -> None:
        slices = " and ".join(
            f"{counted(len(half.images), 'slice')} of {counted(half.patients, 'patient')}" for half in halves
        )
        self.progress.say(f"probe     {slices}, classes {listed(classes.names, 8)}")
        for note in shortened(self.notes, _SHOWN, " such notes"):
            self.progress.note(note)
        for half in halves:
            indices = set(half.labels.unique().tolist())
            if absent := [name for i, name in enumerate(classes.names, start=1) if i not in indices]:
                self.progress.note(
                    f"probe: {listed(absent, 5)}: shown by none of the {len(half.images)} slices of one half of the "
                    f"patients; more --probe-slices or labelled scans avoid it"
                )


def quotas(available: Sequence[int], number: int) -> list[int]:
    """How many to take of each: one of each in turn, until there are `number` or no more.

    >>> quotas([5, 1, 2], 6)
    [3, 1, 2]
    """
    taken = [0] * len(available)
    while sum(taken) < min(number, sum(available)):
        for i, most in enumerate(available):
            if taken[i] < most and sum(taken) < number:
                taken[i] += 1
    return taken
