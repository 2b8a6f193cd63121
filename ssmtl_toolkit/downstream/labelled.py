"""Labelled scans: pairs of image and label map, checked before anything is trained, and the slices to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.labels import IGNORE, Classes, label_values, read_labels
from ssmtl_toolkit.data.prepare import resize_labels
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import Slices, choose
from ssmtl_toolkit.data.store import LeftOut, SliceStore
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable


@dataclass(frozen=True)
class Shown:
    """What the label map of one scan shows, slice by slice in the order of the cut.

    Attributes:
        annotated: (S,), whether somebody annotated any of its pixels.
        classes: (S, number of classes), which of them it shows.
    """

    annotated: NDArray[np.bool_]
    classes: NDArray[np.bool_]

    def slices(self, which: str) -> list[int]:
        """The slices to draw from: those that show a class, or all annotated ones."""
        chosen = self.annotated & self.classes.any(axis=1) if which == "foreground" else self.annotated
        return [int(i) for i in np.flatnonzero(chosen)]


@dataclass
class LabelledScans:
    """Reads scans with their label maps as class indices.

    Attributes:
        notes: what was odd, a line each, without repetition.
    """

    config: ResolvedFinetune
    slicing: Slicing
    readers: Readers
    classes: Classes
    refuse_others: bool
    notes: list[str] = field(default_factory=list)

    def read(self, scan: Scan) -> tuple[Volume, NDArray[np.uint8]]:
        """Return the scan, and the class index (I, J, K) of its voxels, `IGNORE` where nobody has annotated.

        Raises:
            DataError: naming the file: it cannot be read, is no label map, or is not on the grid of its scan.
        """
        assert scan.label is not None
        volume = self.readers.read(scan.path, self.slicing.volume)
        where = printable(scan.label)
        labels = read_labels(
            self.readers.read(scan.label),
            volume,
            self.classes,
            where,
            axis=self.slicing.axis,
            annotated=scan.annotated,
            ignore_affine=self.config.ignore_affine,
            others="refuse" if self.refuse_others else "background",
        )
        for note in labels.notes:
            if f"{where}: {note}" not in self.notes:
                self.notes.append(f"{where}: {note}")
        return volume, labels.index

    def cut(self, scan: Scan) -> NDArray[np.uint8]:
        """Return the class indices (S, H, W) in the order of the cut."""
        volume, index = self.read(scan)
        return Stack.of(replace(volume, array=index), self.slicing.axis).slices

    def look(self, scan: Scan) -> Shown:
        """Read a label map and tell what it shows."""
        index = self.cut(scan)
        flat = index.reshape(len(index), -1)
        classes = [(flat == i + 1).any(axis=1) for i in range(len(self.classes))]
        return Shown((flat != IGNORE).any(axis=1), np.stack(classes, axis=1))

    def targets(self, scans: Sequence[Scan], store: SliceStore) -> Tensor:
        """Class indices (total, size, size) uint8 of the store's slices, each pixel the one at its centre."""
        size = self.slicing.size
        found = torch.full((len(store.slices), size, size), IGNORE, dtype=torch.uint8)
        by_name = {scan.name: scan for scan in scans}
        for stored in store.scans:
            index = resize_labels(self.cut(by_name[stored.scan.name]), size, size)
            found[stored.start : stored.start + stored.count] = torch.from_numpy(np.ascontiguousarray(index))
        return found


def find_classes(scans: Iterable[Scan], readers: Readers, ignore: int | None) -> tuple[Classes, str]:
    """Make a class of each value in the label maps, for data that do not say what their values mean.

    Returns:
        The classes, and how many of the scans show each, in words.

    Raises:
        DataError: there is nothing but background, or a negative value, which is hardly a class.
    """
    shown: Counter[int] = Counter()
    first: dict[int, str] = {}
    number = 0
    for scan in scans:
        assert scan.label is not None
        number += 1
        values = label_values(readers.read(scan.label), printable(scan.label))
        for value in map(int, np.unique(values)):
            shown[value] += 1
            first.setdefault(value, printable(scan.label))
    classes = Classes.of_values(shown, ignore)
    if not len(classes):
        raise DataError(f"the label maps of these {number} scans hold nothing but background; check the labels")
    for value in (one.values[0] for one in classes.classes):
        if value < 0:
            raise DataError(
                f"{first[value]}: has the label value {value} (in {shown[value]} of {number} scans); if it means not "
                f"annotated, say so by --ignore-value={value}, or name the classes by --classes"
            )
    listed = [_shown_in(one.values[0], shown[one.values[0]], number, first) for one in classes.classes]
    hint = "; --ignore-value 255 if that means not annotated" if shown[255] and ignore is None else ""
    return classes, f"label classes by their values: {', '.join(listed)}; --classes names or chooses them{hint}"


def _shown_in(value: int, scans: int, total: int, first: Mapping[int, str]) -> str:
    """In how many scans a value is; where they are few, in which."""
    where = f": {first[value]}" if scans == 1 < total else ""
    return f"{value} (in {scans} of {total} scans{where})"


def try_each(
    scans: Sequence[Scan], act: Callable[[Scan], None], skip_bad: bool, what: str = "labelled scans"
) -> list[LeftOut]:
    """Do something with every scan; collect those that cannot be used.

    Raises:
        DataError: naming all of them, unless `skip_bad`.
    """
    bad = []
    for scan in scans:
        try:
            act(scan)
        except DataError as error:
            bad.append(LeftOut(scan.name, str(error)))
    if bad and not skip_bad:
        more = [f"… and {len(bad) - 20} more"] if len(bad) > 20 else []
        listed = [item.reason for item in bad[:20]]
        head = f"{len(bad)} of {len(scans)} {what} cannot be used:"
        raise DataError("\n".join([head, *listed, *more, "mend them, or go on without them: --skip-bad"]))
    return bad


def draw_scans(config: ResolvedFinetune, scans: Sequence[Scan], seed: int) -> list[Scan]:
    """The training scans of one repetition."""
    return choose(config.train_scans, scans, seed, 2)


def draw_slices(
    config: ResolvedFinetune, scans: Sequence[Scan], shown: Mapping[str, Shown], seed: int
) -> dict[str, tuple[int, ...]]:
    """The training slices of one repetition, by scan."""
    drawn = {}
    for i, scan in enumerate(scans):
        among = shown[scan.name].slices(config.slices)
        drawn[scan.name] = tuple(choose(config.slices_per_scan, among, seed, 3, i))
    if not any(drawn.values()):
        raise DataError(
            f"none of the {len(scans)} training scans of seed {seed} has a slice with a class ({config.slices}); "
            f"choose other --classes, more --train-scans or --slices any"
        )
    return drawn


def check_slices(slices: Slices, shown: Mapping[str, Shown], file: str) -> None:
    """Refuse given slices that are outside of their scan or not annotated."""
    for name, rows in slices.items():
        if name not in shown:
            raise DataError(f"{file}: its slices are of {name!r}, which is no training scan here")
        count = len(shown[name].annotated)
        for row in rows:
            if not 0 <= row < count:
                raise DataError(f"{file}: slice {row} of {name!r} is not there, it has 0 to {count - 1}")
            if not shown[name].annotated[row]:
                raise DataError(f"{file}: slice {row} of {name!r} is not annotated; leave it out")


def absent(slices: Slices, shown: Mapping[str, Shown], classes: Classes) -> list[str]:
    """Names of the classes that none of the training slices shows."""
    seen = np.zeros(len(classes), bool)
    for name, rows in slices.items():
        seen |= shown[name].classes[list(rows)].any(axis=0)
    return [name for name, there in zip(classes.names, seen, strict=True) if not there]


def store_rows(store: SliceStore, slices: Mapping[str, Sequence[int]]) -> NDArray[np.int64]:
    """Where slices lie in the store."""
    start = {scan.scan.name: scan.start for scan in store.scans}
    missing = [name for name in slices if name not in start]
    if missing:
        raise SsmtlError(f"{missing[0]!r} is not among the prepared scans")
    return np.array([start[name] + row for name, rows in slices.items() for row in rows], dtype=np.int64)
