"""Which prediction belongs to which label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssmtl_toolkit.data.finding import PREDICTION, find
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.writing import output_name
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import listed, printable

_SHOWN = 10


@dataclass(frozen=True)
class Pair:
    """A prediction and its label."""

    name: str
    pred: Path
    label: Path


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


def pair_files(pred: Path, label: Path, readers: Readers) -> Pairing:
    """Pair the predictions with the labels: two files, or the files of two folders by their paths without suffix.

    Raises:
        DataError: one of them is missing, there is no pair, or two files have one name.
    """
    ours, theirs = _files(pred, readers, "--pred"), _files(label, readers, "--label")
    if pred in ours.values() and label in theirs.values():  # one file against one file, whatever they are called
        return Pairing((Pair(printable(pred.name), pred, label),))
    ours = _by_case({name: file for name, file in ours.items() if not _is_companion(name, ours)}, theirs)
    both = [name for name in ours if name in theirs]
    if not both:
        raise DataError(
            f"no prediction below {printable(pred)} has the name of a label below {printable(label)}: there are "
            f"{listed(map(printable, ours), 3)} and {listed(map(printable, theirs), 3)}; files are paired by their "
            f"paths without suffix"
        )
    return Pairing(
        tuple(Pair(printable(name), ours[name], theirs[name]) for name in both),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
    )


def _by_case(predictions: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, Path]:
    """Name predictions like their labels: nnU-Net's CASE_0000 without the channel, if no label has that name."""
    renamed: dict[str, Path] = {}
    for name, file in predictions.items():
        case = re.sub(r"_\d{4}$", "", name)
        key = case if name not in labels and case in labels else name
        if key in renamed:
            raise DataError(
                f"{printable(file)}: and {printable(renamed[key])} are both for the label {printable(key)}; keep one"
            )
        renamed[key] = file
    return renamed


def _is_companion(name: str, predictions: Mapping[str, Path]) -> bool:
    """Whether `ssmtl predict --probabilities` wrote this beside a prediction."""
    base = name.removesuffix("_probabilities")
    return base != name and base in predictions and (predictions[name].parent / PREDICTION).is_file()


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
