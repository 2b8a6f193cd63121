"""Scans and labels as they were decoded: within a command none is decoded twice while it can be kept in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.labels import read_label
from ssmtl_toolkit.data.memory import free_memory
from ssmtl_toolkit.data.named import Named, renumbered
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import WhichVolume
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.specs import Scan

_PART_OF_MEMORY = 0.25  # of what is free at the start

_Label = tuple[Volume, Named]
_Key = tuple[Path, ...]


class Decoded:
    """Decodes scans and labels, and keeps those that are asked for again.

    Several threads may use it, each with scans of its own.
    """

    def __init__(self, readers: Readers, volume: WhichVolume) -> None:
        self.readers, self._volume = readers, volume
        self._most = _PART_OF_MEMORY * free_memory()
        self._scans: dict[_Key, Volume] = {}
        self._labels: dict[_Key, _Label] = {}
        self._held: set[Scan] = set()

    def scan(self, scan: Scan) -> Volume:
        """The scan, all its channels; raises what `Readers.read_scan` does."""
        read = self._scans.get(scan.paths)
        if read is None:
            read = self.readers.read_scan(scan, self._volume)
            if scan in self._held:
                self._scans[scan.paths] = read
        return read

    def label(self, scan: Scan) -> _Label:
        """The labels of a scan with the values of the file, and what the file calls its classes.

        Raises:
            DataError: naming the file and what is wrong with it.
        """
        read = self._labels.get(scan.label_paths)
        if read is None:
            label = read_label(scan, self.readers, self.scan(scan), None, self._volume)
            read = label, ({} if scan.masks or scan.label is None else self.readers.classes(scan.label))
            if scan in self._held:
                self._labels[scan.label_paths] = read
        return read

    def label_of(self, scan: Scan, classes: Classes) -> Volume:
        """The labels of a scan with the values that `classes` has for the names in the file; raises what `label` does,
        and where a name contradicts the classes."""
        label, names = self.label(scan)
        return renumbered(label, names, classes, scan.label) if scan.label else label

    @contextlib.contextmanager
    def holding(self, scan: Scan, *, keep: bool = False) -> Iterator[None]:
        """Decode this scan and its labels at most once within; `keep`: and afterwards, if there is memory for it."""
        if scan in self._held:
            yield
            return
        self._held.add(scan)
        try:
            yield
        finally:
            self._held.discard(scan)
            if not keep or self._bytes() > self._most:
                self.forget([scan])

    def kept(self, scan: Scan) -> Volume:
        """As `scan`; it is kept afterwards, if there is memory for it."""
        with self.holding(scan, keep=True):
            return self.scan(scan)

    def forget(self, scans: Iterable[Scan]) -> None:
        """Free the memory of these scans."""
        for scan in scans:
            self._scans.pop(scan.paths, None)
            self._labels.pop(scan.label_paths, None)

    def _bytes(self) -> int:
        volumes = [*self._scans.copy().values(), *(label for label, _ in self._labels.copy().values())]
        return sum(volume.array.nbytes for volume in volumes)
