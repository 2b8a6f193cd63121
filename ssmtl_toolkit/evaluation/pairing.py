"""Which prediction belongs to which label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ssmtl_toolkit.data.finding import find, predicted_in
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.writing import output_name
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import listed, printable

_SHOWN = 10


@dataclass(frozen=True)
class Pair:
    """A prediction, and a scan with labels (or a label map as such a scan)."""

    name: str
    pred: Path
    truth: Scan

    @property
    def label(self) -> Path:
        """The label map, or the folder of the masks."""
        return self.truth.label or self.truth.path


@dataclass(frozen=True)
class Pairing:
    """The pairs, and the names of what has no counterpart."""

    pairs: tuple[Pair, ...]
    predictions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What has no counterpart, for a person."""
        alone = [
            (self.predictions, "predictions have no label and are not scored"),
            (self.labels, "labels have no prediction and are not scored"),
        ]
        return [f"{len(names)} {what}: {listed(map(printable, names), _SHOWN)}" for names, what in alone if names]


def pair_files(pred: Path, label: Path, readers: Readers, labelled: Sequence[Scan] = ()) -> Pairing:
    """Pair predictions with labels: two files, or the files of two folders by their paths without suffix.

    Args:
        pred: a file or folder.
        label: the same.
        readers: what reads them.
        labelled: the labelled scans, if `label` is a data set: a prediction refers to its scan, as DICOM SEG does, or
            is called like it, or like a folder that holds no other of these scans.

    Raises:
        DataError: one of them is missing, there is no pair, or two files have one name.
    """
    scans = {scan.name: scan for scan in labelled}
    ours = _by_scan(_files(pred, readers, "--pred"), scans, readers)
    if not any(name in scans for name in (*ours, *map(_case, ours))):
        scans = {name: _of_file(name, file) for name, file in _files(label, readers, "--label").items()}
    theirs = {name: scan.path for name, scan in scans.items()}
    if pred in ours.values() and label in theirs.values():  # one file against one file, whatever they are called
        return Pairing((Pair(printable(pred.name), pred, _of_file(pred.name, label)),))
    ours = _by_case({name: file for name, file in ours.items() if not _is_companion(name, ours, pred)}, theirs)
    both = [name for name in ours if name in theirs]
    if not both:
        known = [scan.name for scan in labelled] or list(theirs)
        refer = any(readers.label_rank(file) is not None for file in (*ours.values(), *theirs.values()))
        referred = ", SEG and RTSTRUCT by the scans that they refer to: give --label the data set" if refer else ""
        raise DataError(
            f"no prediction below {printable(pred)} has the name of a label below {printable(label)}: there are "
            f"{listed(map(printable, ours), 3)} and {listed(map(printable, known), 3)}; files are paired by their "
            f"paths without suffix{referred}"
        )
    return Pairing(
        tuple(Pair(printable(name), ours[name], scans[name]) for name in both),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
    )


def _of_file(name: str, file: Path) -> Scan:
    return Scan(file, name, name, label=file)


def _by_scan(predictions: Mapping[str, Path], scans: Mapping[str, Scan], readers: Readers) -> dict[str, Path]:
    """Name predictions like the scan that they refer to, or that alone is in the folder of their name.

    Raises:
        DataError: two are for one scan.
    """
    names = {scan.path: name for name, scan in scans.items()}
    inside: dict[str, list[str]] = {}
    for name in scans:
        for folder in PurePath(name).parents:
            inside.setdefault(folder.as_posix(), []).append(name)
    renamed: dict[str, Path] = {}
    for name, file in predictions.items():
        refers = readers.label_rank(file) is not None
        owner = names.get(readers.scan_of(file, list(names)) or file) if refers else None
        alone = inside.get(name, ())
        key = owner or (alone[0] if len(alone) == 1 and name not in scans else name)
        _add(renamed, key, file)
    return renamed


def _add(renamed: dict[str, Path], name: str, file: Path) -> None:
    if name in renamed:
        raise DataError(
            f"{printable(file)}: and {printable(renamed[name])} are both for the label {printable(name)}; keep one"
        )
    renamed[name] = file


def _case(name: str) -> str:
    """The name of nnU-Net's case of a channel."""
    return re.sub(r"_\d{4}$", "", name)


def _by_case(predictions: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, Path]:
    """Name predictions like their labels: nnU-Net's CASE_0000 without the channel, if no label has that name."""
    renamed: dict[str, Path] = {}
    for name, file in predictions.items():
        case = _case(name)
        _add(renamed, case if name not in labels and case in labels else name, file)
    return renamed


def _is_companion(name: str, predictions: Mapping[str, Path], root: Path) -> bool:
    """Whether `ssmtl predict --probabilities` wrote this beside a prediction."""
    base = name.removesuffix("_probabilities")
    return base != name and base in predictions and predicted_in(predictions[name], root) is not None


def _files(root: Path, readers: Readers, option: str) -> dict[str, Path]:
    """Find the files below `root` by their paths in there, without suffix, in the order of names."""
    if not root.exists():
        raise DataError(f"{printable(root)}: no such file or folder; check {option}")
    if not root.is_dir() or readers.can_read(root):
        return {_stem(root): root}
    files: dict[str, Path] = {}
    for entry in find(root, readers):
        if entry.unfit:
            continue
        name = (entry.holder.relative_to(root).with_name(_stem(entry.holder)) / entry.part).as_posix()
        if name in files:
            raise DataError(
                f"{printable(entry.path)}: has the same name as {printable(files[name])}, so it is not clear which "
                f"of them to take; keep one"
            )
        files[name] = entry.path
    if not files:
        raise DataError(f"{printable(root)}: no readable scan in this folder; check {option}")
    return files


def _stem(file: Path) -> str:
    return output_name(file).removesuffix(".nii.gz")
