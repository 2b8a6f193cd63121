"""What a fine-tuning works with: scans that can be used, their split by patients, and the slices to train on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data import split as splits
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.folds import Folds
from ssmtl_toolkit.data.labels import named_classes
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import Slices, Split
from ssmtl_toolkit.data.store import Skipped, try_each, unusable
from ssmtl_toolkit.downstream import drawing
from ssmtl_toolkit.downstream.contrasts import common_contrasts
from ssmtl_toolkit.downstream.image_targets import ImageTargets
from ssmtl_toolkit.downstream.label_targets import LabelTargets
from ssmtl_toolkit.downstream.targets import SliceContents, Targets
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.runtime.folder import BACKBONE, SPLIT, SUMMARY
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import list_scans, reading_of
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted, listed, printable, shortened

_SHOWN = 10  # notes of one kind
_DRAWING = ("train_scans", "slices_per_scan")
_STOPPING = ("patience", "check_every")


@dataclass(frozen=True)
class Material:
    """What all repetitions of a fine-tuning work with.

    Attributes:
        split: patients of each part, and the training slices of every repetition.
        training, validation, test: the scans that are used.
        contents: what their slices offer, by scan.
        digests: of their files and voxels, by scan.
        skipped: scans that cannot be used, and why.
        reading: how the scans are read; what is asked for again is in its memory.
        test_seen: how many test scans the pre-training has seen; None if it does not record that.
    """

    split: Split
    training: Sequence[Scan]
    validation: Sequence[Scan]
    test: Sequence[Scan]
    targets: Targets
    contents: dict[str, SliceContents]
    digests: Mapping[str, Sequence[str]]
    skipped: Sequence[Skipped]
    reading: Reading
    test_seen: int | None

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Those of the channels, as `Scan.contrasts`; () if they are not known."""
        return common_contrasts([*self.training, *self.validation, *self.test])

    @property
    def slices(self) -> Sequence[Slices]:
        """The training slices of every repetition."""
        return self.split.slices


class Gathering:
    """Gathers the material, checking all that can be checked before anything is trained."""

    def __init__(
        self,
        config: ResolvedFinetune,
        slicing: Slicing,
        pretrained: Pretrained | None,
        cache: Path,
        progress: Progress,
    ) -> None:
        self.config, self.slicing, self.pretrained, self.progress = config, slicing, pretrained, progress
        self.cache = cache
        self.reading = reading_of(slicing, cache, progress)
        self.readers: Readers = self.reading.decoded.readers
        self.skipped: list[Skipped] = []
        self.seeds = range(config.seed, config.seed + config.seeds)

    def run(self, written: Path | None) -> Material:
        """Gather everything; `written` is the split of an earlier start.

        Raises:
            DataError: scans, labels or split cannot be used.
            UsageError: the pre-training had another number of channels.
        """
        scans = self._usable_scans()
        split, file, scans = self._split(scans, written)
        drawn = self._training_scans(split, split.of(scans, "train"), file, written)
        training = _once([scan for repetition in drawn for scan in repetition])
        validation, test = (split.of(scans, part) for part in ("validation", "test"))
        used = _once([*training, *validation, *test])
        digests = {scan.name: digests_of(scan, self.readers, self.reading.memo) for scan in used}
        self._refuse_known({scan.name: digests[scan.name] for scan in test})  # by files alone: nothing is decoded yet
        targets = self._targets(used)
        contents = self._look(used, targets, {scan.name for scan in [*training, *validation]})
        self._check_channels(used, contents)
        slices = self._slices(split, drawn, contents, file)
        training, validation, test = (
            [scan for scan in part if scan.name in contents] for part in (training, validation, test)
        )
        digests = {name: [*digests[name], found.scan] for name, found in contents.items()}
        tested = {scan.name: digests[scan.name] for scan in test}
        self._refuse_known(tested)
        test_seen = self._seen_before(tested)
        split = replace(split, slices=tuple(slices))
        if not validation:
            for note in self.config.without_effect(*_STOPPING, because="there are no validation scans"):
                self.progress.note(note)
        return Material(
            split, training, validation, test, targets, contents, digests, self.skipped, self.reading, test_seen
        )

    def _usable_scans(self) -> list[Scan]:
        """The scans that can be used: with labels, if the head learns from labels."""
        every = list_scans(self.config.data, self.cache, self.progress.note, in_time=self.slicing.in_time)
        self.skipped += [Skipped(scan.name, scan.unfit) for scan in every if scan.unfit]
        fit = [scan for scan in every if not scan.unfit]
        scans = [scan for scan in fit if scan.label] if self.config.head.output == "labels" else fit
        if not scans:
            reasons = f"; {len(self.skipped)} skipped, such as {self.skipped[0].reason}" if self.skipped else ""
            raise DataError(
                f"{self.config.data}: none of its {len(fit)} scans has a label map; expected images/ and labels/ with "
                f"the same names, a dataset.json, or a manifest (.csv, .toml) with the columns image and label{reasons}"
            )
        if len(scans) < len(fit):
            bare = [printable(scan.name) for scan in fit if not scan.label]
            self.progress.note(f"{len(bare)} of {len(fit)} scans have no label map and are not used: {listed(bare, 3)}")
        self._tell_skipped(self.skipped)
        return scans

    def _split(self, scans: list[Scan], written: Path | None) -> tuple[Split, Path | None, list[Scan]]:
        """The split that is given or was written, or a new one; its file; and the scans with their patients."""
        config = self.config
        file, fold = written or config.split, None if written else config.fold
        known = Split.read(file) if file and fold is None else None
        pattern = config.patient if config.patient is not None or known is None else known.pattern
        scans, notes = splits.with_patients(scans, pattern)
        for note in notes:
            self.progress.note(note)
        if file and fold is not None:
            known = Folds.read(file).split(fold, scans, pattern)
        if known is None or file is None:
            new_split = splits.make(scans, config.test_scans, config.validation_scans, config.seed, pattern)
            return new_split, None, scans
        splits.check_known(known, scans, file)
        if not known.test or not (known.train or known.slices):
            raise DataError(f"{printable(file)}: names no {'train' if known.test else 'test'} patients; add them")
        if file == written and len(known.slices) < len(self.seeds):  # repetitions were added
            given = None if config.fold is not None else config.split
            known = replace(known, slices=Split.read(given).slices if given else ())
        return known, file, scans

    def _training_scans(
        self, split: Split, scans: list[Scan], file: Path | None, written: Path | None
    ) -> list[list[Scan]]:
        """The training scans of every repetition: those of the given slices, or drawn."""
        if split.slices:
            if file != written:
                for note in self.config.without_effect(
                    *_DRAWING, because=f"{printable(file or SPLIT)} names the slices"
                ):
                    self.progress.note(note)
            return drawing.given_scans(self._given(split), scans, printable(file or SPLIT))
        if (wanted := self.config.train_scans or 0) > len(scans):
            self.progress.note(f"--train-scans {wanted}: there are only {len(scans)}, all of them are used")
        return [drawing.draw_scans(self.config, scans, seed) for seed in self.seeds]

    def _given(self, split: Split) -> list[Slices]:
        """The given slices of every repetition; they are reused in turn if there are more repetitions."""
        return [split.slices[i % len(split.slices)] for i in range(len(self.seeds))]

    def _seen_before(self, tested: Mapping[str, Sequence[str]]) -> int | None:
        """Count the test scans that the pre-training has seen, by the digests of their files and voxels."""
        seen = self.pretrained.scans if self.pretrained else frozenset()
        return sum(_overlap(digests, seen) for digests in tested.values()) if seen else None

    def _refuse_known(self, tested: Mapping[str, Sequence[str]]) -> None:
        """Refuse weights that know the labels of test scans, whose scores would be optimistic; raises UsageError."""
        if self.pretrained is None:
            return
        last = printable(self.pretrained.file.with_name(BACKBONE))
        ways = (
            (
                self.pretrained.probed,
                "its step was chosen by a probe that saw the labels of",
                f"start from the last step, --from {last}, or pre-train with --without SPLIT and give the same --split "
                f"here (ssmtl data split makes one)",
            ),
            (
                self.pretrained.learned or frozenset(),
                "comes from a training that saw the labels of",
                f"test on others, by --split (a fine-tuning writes its own as {SPLIT})",
            ),
        )
        for digests, what, todo in ways:
            if known := [name for name, own in tested.items() if _overlap(own, digests)]:
                raise UsageError(
                    f"{printable(self.pretrained.file)}: {what} {len(known)} of the {len(tested)} test scans, such as "
                    f"{printable(known[0])}; {todo}"
                )

    def _targets(self, scans: Sequence[Scan]) -> Targets:
        """What the head learns from, as far as that is known before anything is decoded.

        Raises:
            UsageError: a class that the data do not have, or classes that cannot be learned.
        """
        config = self.config
        if config.head.output == "image":
            return ImageTargets(self.reading)
        known = dict(config.data.classes())
        if not known:
            named = named_classes(scans, self.readers)
            known = named.classes
            if named.note:
                self.progress.note(named.note)
        ignored = config.data.ignored() if config.ignore_value is None else config.ignore_value
        classes = Classes.parse(config.classes or "", known, ignored) if known or config.classes else None
        if classes:
            self._check_overlap(classes)
        refuse_others = not config.classes or bool(known)
        return LabelTargets(config, self.reading, classes, ignored, refuse_others=refuse_others)

    def _check_overlap(self, classes: Classes) -> None:
        """Refuse classes that overlap where the head or the semi-supervised method cannot learn them, else note them.

        Raises:
            UsageError: naming the head or the method.
        """
        if not classes.overlap:
            return
        head, semi = self.config.head, self.config.semi
        todo = "choose classes that share no value by --classes"
        if not head.overlapping:
            raise UsageError(f"head {str(head)!r} learns one class for each pixel, and {classes} overlap; {todo}")
        if semi is not None and semi.teaches:
            raise UsageError(
                f"semi {str(semi)!r} makes pseudo labels of one class for each pixel, and {classes} overlap; {todo}, "
                f"or omit --semi"
            )
        self.progress.note(f"classes that overlap, each learned and scored by itself: {classes}")

    def _look(self, scans: Sequence[Scan], targets: Targets, learned: set[str]) -> dict[str, SliceContents]:
        """Read what every scan offers, each once, before anything is trained."""
        self.progress.preparing(len(scans))
        bad = try_each(scans, lambda i: targets.prepare(scans[i], learned=scans[i].name in learned), self._prepared)
        self.reading.memo.save()
        read = {i: scan for i, scan in enumerate(scans) if i not in bad}
        if read and (note := targets.settle(list(read.values()))):
            self.progress.note(note)
        contents: dict[str, SliceContents] = {}
        known: dict[str, Scan] = {}
        for i, scan in read.items():
            try:
                found = targets.look(scan)
            except DataError as error:
                bad[i] = Skipped(scan.name, str(error))
                continue
            same = known.setdefault(found.scan, scan)
            if same is scan:
                contents[scan.name] = found
            else:
                reason = f"is the same scan as {printable(same.path)}, voxel by voxel; remove one of them"
                bad[i] = Skipped(scan.name, f"{printable(scan.path)}: {reason}")
        ordered = [bad[i] for i in sorted(bad)]
        if ordered and not self.config.skip_bad:
            raise unusable(ordered, len(scans), targets.what)
        self.skipped += ordered
        self._tell_skipped(ordered)
        for note in shortened(targets.notes, _SHOWN, f" such notes, all in {SUMMARY}"):
            self.progress.note(note)
        return contents

    def _prepared(self, name: str) -> None:
        self.progress.prepared(name)
        interrupts.check("nothing was trained yet")

    def _check_channels(self, scans: Sequence[Scan], contents: dict[str, SliceContents]) -> None:
        """Refuse scans of different numbers of channels, or of another number than the pre-training had."""
        read = [(scan, contents[scan.name].channels) for scan in scans if scan.name in contents]
        for scan, channels in read:
            if channels != read[0][1]:
                raise DataError(
                    f"{printable(scan.path)}: has {counted(channels, 'channel')}, {printable(read[0][0].path)} has "
                    f"{read[0][1]}; all scans of a training have the same channels: complete one of them, or leave it "
                    f"out"
                )
            if self.pretrained and self.pretrained.channels not in (None, channels):
                raise UsageError(
                    f"{printable(self.pretrained.file)}: was trained on slices of "
                    f"{counted(self.pretrained.channels, 'channel')}, and the scans of {self.config.data} have "
                    f"{channels}; give scans with the same channels, or pre-train on scans like these"
                )

    def _tell_skipped(self, items: Sequence[Skipped]) -> None:
        for reason in shortened([item.reason for item in items], _SHOWN, f", all in {SUMMARY}"):
            self.progress.note(f"skipped: {reason}")

    def _slices(
        self, split: Split, drawn: Sequence[Sequence[Scan]], contents: dict[str, SliceContents], file: Path | None
    ) -> list[Slices]:
        """The training slices of every repetition: as given, or drawn."""
        skipped = {item.name for item in self.skipped}
        if split.slices:
            return drawing.given_slices(self._given(split), contents, skipped, printable(file or SPLIT))
        return [
            drawing.draw_slices(self.config, [scan for scan in scans if scan.name not in skipped], contents, seed)
            for scans, seed in zip(drawn, self.seeds, strict=True)
        ]


def _once(scans: Sequence[Scan]) -> list[Scan]:
    """Each scan once, in the order of first appearance."""
    return list({scan.name: scan for scan in scans}.values())


def digests_of(scan: Scan, readers: Readers, memo: DigestMemo) -> list[str]:
    """Those of its files; none if one cannot be read: preparing it says why."""
    try:
        return [readers.digest(path, memo) for path in scan.paths]
    except DataError:
        return []


def _overlap(digests: Sequence[str], seen: Collection[str]) -> bool:
    """Whether one of a scan's files, or its voxels, is among those seen."""
    return any(digest[:16] in seen for digest in digests)
