"""The labels of one scan in the cache, cut as its slices are, with their own values: classes are chosen when read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data import prepare as preparing
from ssmtl_toolkit.data.classes import IGNORE, Classes, Others
from ssmtl_toolkit.data.files import DigestMemo, Waiting
from ssmtl_toolkit.data.labels import NO_CLASS, about_unknown, one_of_several, read_values
from ssmtl_toolkit.data.named import renumbering
from ssmtl_toolkit.data.pieces import source
from ssmtl_toolkit.data.prepare import Sliced
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.sealed import Sealed, checksum_of
from ssmtl_toolkit.data.slicing import EmptyFrames
from ssmtl_toolkit.data.source import naming_scan
from ssmtl_toolkit.documents import parse_json
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

_FORMAT = 2  # of the files here, and of how labels are checked and cut; 1 had no digest of the scan

_Codes = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class AboutLabels:
    """What a piece says of a label map beside its slices.

    Attributes:
        values: those in it, with 0 first; the code of a pixel is the place of its value here, or behind the last one
            if nobody annotated it.
        counts: how many voxels have each, annotated or not.
        annotated: whether an annotated voxel has it.
        names: what the file calls its classes, with the values of each; {} if it does not.
        channels: how many the scan has.
        scan: digest of its voxels.
        codes, shown: checksums of the arrays.
    """

    values: tuple[int, ...]
    counts: tuple[int, ...]
    annotated: tuple[bool, ...]
    names: dict[str, tuple[int, ...]]
    channels: int
    scan: str
    notes: tuple[str, ...]
    codes: str
    shown: str

    @classmethod
    def of(cls, text: str) -> AboutLabels:
        """Read what was written as JSON."""
        content = parse_json(text)
        names = {name: tuple(values) for name, values in content.pop("names").items()}
        listed: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in content.items()}
        return cls(names=names, **listed)


@dataclass(frozen=True)
class Meant:
    """What the codes of a label map mean by some classes: the class index of each, and notes on the label map."""

    indices: NDArray[np.uint8]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LabelPiece:
    """The cached labels of one scan; `make` writes them anew, `waiting` gets a note if that is needed."""

    scan: Scan
    sealed: Sealed
    about: AboutLabels
    make: Callable[[], None]
    waiting: Waiting

    @property
    def where(self) -> str:
        """The label file, for messages."""
        return _where(self.scan)

    @property
    def values(self) -> list[int]:
        """The values that the label map has."""
        return [value for value, count in zip(self.about.values, self.about.counts, strict=True) if count]

    def meant(self, classes: Classes, others: Others) -> Meant:
        """What the codes mean by these classes.

        Raises:
            DataError: naming the file: it has values assigned to no class, which `others` refuses, or a name in it
                contradicts the classes.
        """
        assert self.scan.label is not None
        names = renumbering(self.about.names, classes, self.scan.label) if self.about.names else {}
        values = [names.get(value, value) for value in self.about.values]
        index, unknown = classes.to_index(np.array(values)[:, None], self.where, "background")
        if unknown and others == "refuse":
            counts: Counter[int] = Counter()
            for value, count in zip(values, self.about.counts, strict=True):
                counts[value] += count
            raise classes.unknown({value: counts[value] for value in unknown}, self.where)
        indices = np.append(index[:, 0], np.uint8(IGNORE))
        of_class = (index[:, 0] > 0) & (index[:, 0] != IGNORE) & np.array(self.about.annotated)
        notes = [*self.about.notes, *about_unknown(unknown), *([] if of_class.any() else [NO_CLASS])]
        return Meant(indices, tuple(notes))

    def shown(self) -> NDArray[np.bool_]:
        """Which code each slice shows, before slices are resized: (S, codes). Raises what `slices` does."""
        return self._array("shown", self.about.shown).astype(bool)

    def slices(self, meant: Meant) -> NDArray[np.uint8]:
        """The class indices of the slices: (S, rows, columns); where the file is damaged it is made anew, with a note.

        Raises:
            DataError: scan or labels have changed meanwhile, or the disk does not keep what is written to it.
        """
        codes: _Codes = self._array("codes", self.about.codes)
        return np.asarray(meant.indices[codes])

    def _array(self, name: str, expected: str) -> NDArray[Any]:
        found = self.sealed.array(name, expected)
        if found is None:
            self.sealed.note_damage(self.waiting, f"the labels of {self.scan.name}")
            self.sealed.make(self.make, self.waiting)
            found = self.sealed.array(name, expected)
        if found is None:
            raise DataError(
                f"{printable(self.sealed.file)}: does not hold what was written to it, or {self.where} has changed "
                f"since this start; start again, or choose another --cache"
            )
        return found


def find_labels(
    scan: Scan, reading: Reading, *, ignore_affine: bool, empty_frames: EmptyFrames = "ignore"
) -> LabelPiece:
    """Find the labels of a scan in the cache, or read and cut them as its slices are; values stay as they are.

    How slices are normalised does not matter. `ignore_affine`: accept that the affines differ. `empty_frames`: what
    frames without any label are.

    Raises:
        DataError: naming the file: it cannot be read, is no label map, or is not on the grid of its scan.
        SsmtlError: the cache cannot be written.
    """
    how = reading.slicing.model_copy(update={"normalise": "slice"}).key
    known = [_sources(scan, reading.decoded.readers, reading.memo), scan.annotated, ignore_affine, empty_frames]
    sealed = Sealed.of(reading.cache, "labels", [_FORMAT, known, preparing.REVISION, *how])

    def make() -> None:
        _make(scan, reading, sealed, ignore_affine, empty_frames)

    about = AboutLabels.of(sealed.found(make, reading.waiting, f"the labels of {scan.name}"))
    return LabelPiece(scan, sealed, about, make, reading.waiting)


def _sources(scan: Scan, readers: Readers, memo: DigestMemo) -> list[Any]:
    """What identifies the scan and its labels: their contents, and names where files are matched by them."""
    if scan.label is None:
        raise DataError(f"{printable(scan.path)}: has no label map")
    if not scan.masks:
        labels = [source(scan.label, readers, memo)]
    else:
        masks = ((mask, mask.path) for mask in scan.masks)
        labels = [[mask.name, mask.value, path and source(path, readers, memo)] for mask, path in masks]
    files = [readers.of(path).files(path) for path in (scan.path, scan.label) if not scan.masks]
    names = [[file.name for file in several] for several in files if len(several) > 1]
    return [[source(path, readers, memo) for path in scan.paths], labels, names]


def _make(scan: Scan, reading: Reading, sealed: Sealed, ignore_affine: bool, empty_frames: EmptyFrames) -> None:
    decoded, slicing = reading.decoded, reading.slicing
    with decoded.holding(scan):
        volume = decoded.scan(scan)
        label, names = decoded.label(scan)
    valued = read_values(
        label,
        volume,
        _where(scan),
        axis=slicing.axis,
        annotated=scan.annotated,
        ignore_affine=ignore_affine,
        empty_frames=empty_frames,
        one_of_several=one_of_several(scan, decoded.readers, slicing.volume),
    )
    with naming_scan(scan.path):
        preparing.refuse_blank(volume)
        sliced = Sliced.of(volume, slicing)
    values, codes = _coded(valued.values)
    counts = annotated = _counts(codes, len(values) + 1)
    if valued.unannotated is not None:
        codes = np.where(valued.unannotated, codes.dtype.type(len(values)), codes)
        annotated = _counts(codes, len(values) + 1)
    shown = [_counts(row, len(values) + 1) > 0 for row in sliced.prepared_labels(codes)]
    arrays = {"codes": np.ascontiguousarray(sliced.labels(codes)), "shown": np.array(shown, np.uint8)}
    about = AboutLabels(
        values=tuple(values.tolist()),
        counts=tuple(counts[:-1].tolist()),
        annotated=tuple((annotated[:-1] > 0).tolist()),
        names=dict(names),
        channels=sliced.channels,
        scan=volume.digest,
        notes=valued.notes,
        codes=checksum_of(arrays["codes"]),
        shown=checksum_of(arrays["shown"]),
    )
    sealed.write(arrays, json.dumps(asdict(about)))


def _coded(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], _Codes]:
    """The values of a label map (I, J, K, …), 0 first, and for each voxel the place of its value among them."""
    found = np.unique(np.concatenate([np.unique(labels[..., k]) for k in range(labels.shape[-1])]))
    others = found[found != 0]
    values = np.append(np.int32(0), others)
    codes = np.empty_like(labels, np.min_scalar_type(len(values)))
    for k in range(labels.shape[-1]):  # a slice at a time: places are 8 bytes a voxel
        part = labels[..., k]
        codes[..., k] = np.where(part == 0, 0, np.searchsorted(others, part) + 1)
    return values, codes


def _counts(codes: _Codes, number: int) -> NDArray[np.int64]:
    """How many voxels have each of so many codes; a slice at a time, as codes are counted as 8 bytes each."""
    return np.asarray(np.sum([np.bincount(part.ravel(), minlength=number) for part in codes], axis=0))


def _where(scan: Scan) -> str:
    assert scan.label is not None
    return printable(scan.label)
