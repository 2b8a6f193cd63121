"""Evaluation: predicted label maps against labels, file by file, from paths to a summary of scores."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssmtl_toolkit.data.finding import PREDICTION, find
from ssmtl_toolkit.data.labels import Classes, check_grid, label_values, turned
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.writing import output_name
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation.metrics import monai_metrics
from ssmtl_toolkit.evaluation.scores import ScanScores, check_monai, has_monai, score_scan, summarise
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.text import listed, printable, shortened

_SHOWN = 10


def evaluate(
    pred: str | Path,
    label: str | Path,
    classes: str | None = None,
    ignore_value: int | None = None,
    surface: bool | None = None,
    tolerance: float = 1.0,
    ignore_affine: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score predicted label maps against labels, each pair on the grid of the label.

    Args:
        pred: a file, or a folder of files.
        label: the same; files of folders are paired by their paths in there, without suffix.
        classes: what the values mean, as text for `Classes.parse`; by default what `prediction.json` beside the
            predictions says, or else a class for each value in the files.
        ignore_value: the value that means "not annotated" in the labels.
        surface: compute HD95 and surface Dice too; by default where MONAI is installed.
        tolerance: mm, for surface Dice.
        ignore_affine: take voxel by voxel what has the same shape, wherever the affines place it.
        progress: hears what happens.

    Returns:
        `summarise`'s dict of the scores, with what was compared: ready for JSON.

    Raises:
        UsageError: options are wrong, or `surface` is asked for without MONAI.
        DataError: naming the file or folder that cannot be used, and why.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance is a distance in mm, 0 or more, got {tolerance:g}")
    if surface:
        check_monai(f"{monai_metrics('labels')} (--surface)")
    progress = progress or Progress()
    readers = installed_readers()
    pairing = _pair(Path(pred), Path(label), readers)
    notes = pairing.notes()
    if surface is None and not has_monai():
        notes.append(f"no {monai_metrics('labels')} without MONAI: pip install 'ssmtl-toolkit[metrics]'")
    known, said = _find_classes(pairing, Path(pred), classes, ignore_value, readers)
    judge = _Judge(known, readers, has_monai() if surface is None else surface, tolerance, ignore_affine)
    progress.preparing(len(pairing.pairs))
    scans = []
    with interrupts:
        for pair in pairing.pairs:
            scan, odd = judge.score(pair)
            scans.append(scan)
            notes += odd
            progress.prepared(pair.name)
            interrupts.check("nothing was written")
    progress.done()
    notes += said
    for note in shortened(notes, _SHOWN, " such notes"):
        progress.note(note)
    return {
        "pred": printable(pred),
        "label": printable(label),
        "class_values": known.to_json(),
        "surface": judge.surface,
        "tolerance_mm": tolerance,
        **summarise(scans),
        "unpaired": {"predictions": len(pairing.predictions), "labels": len(pairing.labels)},
        "notes": notes,
    }


@dataclass(frozen=True)
class _Pair:
    """A prediction and its label."""

    name: str
    pred: Path
    label: Path


@dataclass(frozen=True)
class _Pairing:
    """The pairs, and the names of what has no counterpart."""

    pairs: tuple[_Pair, ...]
    predictions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        alone = [
            (self.predictions, "predictions have no label and are not scored"),
            (self.labels, "labels have no prediction and are not scored"),
        ]
        return [f"{len(names)} {what}: {listed(map(printable, names), _SHOWN)}" for names, what in alone if names]


def _pair(pred: Path, label: Path, readers: Readers) -> _Pairing:
    ours, theirs = _files(pred, readers, "--pred"), _files(label, readers, "--label")
    if pred in ours.values() and label in theirs.values():  # one file against one file, whatever they are called
        return _Pairing((_Pair(printable(pred.name), pred, label),))
    ours = _by_case({name: file for name, file in ours.items() if not _is_companion(name, ours)}, theirs)
    both = [name for name in ours if name in theirs]
    if not both:
        raise DataError(
            f"no prediction below {printable(pred)} has the name of a label below {printable(label)}: there are "
            f"{listed(map(printable, ours), 3)} and {listed(map(printable, theirs), 3)}; files are paired by their "
            f"paths without suffix"
        )
    return _Pairing(
        tuple(_Pair(printable(name), ours[name], theirs[name]) for name in both),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
    )


def _by_case(predictions: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, Path]:
    """Call predictions as their labels: nnU-Net's CASE_0000 without the channel, where no label is called so."""
    found: dict[str, Path] = {}
    for name, file in predictions.items():
        case = re.sub(r"_\d{4}$", "", name)
        key = case if name not in labels and case in labels else name
        if key in found:
            raise DataError(
                f"{printable(file)}: and {printable(found[key])} are both for the label {printable(key)}; keep one"
            )
        found[key] = file
    return found


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
    found: dict[str, Path] = {}
    for one in find(root, readers):
        if one.unfit:
            continue
        name = (one.holder.relative_to(root).with_name(_stem(one.holder)) / one.part).as_posix()
        if name in found:
            raise DataError(
                f"{printable(one.path)}: has the same name as {printable(found[name])}, so that it is not clear which "
                f"of them to take; keep one"
            )
        found[name] = one.path
    if not found:
        raise DataError(f"{printable(root)}: no file in this folder that a reader is meant for; check {option}")
    return found


def _stem(file: Path) -> str:
    return output_name(file).removesuffix(".nii.gz")


def _find_classes(
    pairing: _Pairing, pred: Path, text: str | None, ignore: int | None, readers: Readers
) -> tuple[Classes, list[str]]:
    """The classes, and what a user should know about where they come from."""
    saved = _saved_classes((pred if pred.is_dir() else pred.parent) / PREDICTION)
    if saved is not None and ignore is None:
        ignore = saved.ignore
    if text is not None:
        known: Mapping[str, tuple[int, ...]] = {one.name: one.values for one in saved.classes} if saved else {}
        chosen = Classes.parse(text, known, ignore)
        taken = {ignore, *(value for one in chosen.classes for value in one.values)}
        more = {*chosen.background, *(saved.background if saved else ())} - taken
        return replace(chosen, background=tuple(sorted(more))), []
    if saved is not None:
        return replace(saved, ignore=ignore), []
    values: set[int] = set()
    for pair in pairing.pairs:
        for file in (pair.label, pair.pred):
            values.update(np.unique(label_values(readers.read(file), printable(file))).tolist())
    found = Classes.of_values(values, ignore)
    if not len(found):
        raise DataError(
            f"the {len(pairing.pairs)} pairs of files hold nothing but background; if that is right, name the classes "
            f"by --classes"
        )
    return found, [f"label classes by their values: {', '.join(found.names)}; --classes names them"]


def _saved_classes(file: Path) -> Classes | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        classes = content.get("classes")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{printable(file)}: cannot be read ({error}); remove it, and give --classes") from None
    return None if classes is None else Classes.from_json(classes, printable(file))


@dataclass(frozen=True)
class _Judge:
    """Scores pairs of files."""

    classes: Classes
    readers: Readers
    surface: bool
    tolerance: float
    ignore_affine: bool

    def score(self, pair: _Pair) -> tuple[ScanScores, list[str]]:
        """Return the scores of one pair, and what is worth a note about it.

        Raises:
            DataError: naming the file: it cannot be read, is no label map, has values that are of no class, or is not
                on the grid of its label.
        """
        label, pred = self.readers.read(pair.label), self.readers.read(pair.pred)
        ours, theirs = printable(pair.pred), printable(pair.label)
        pred = pred if self.ignore_affine else turned(pred, label)
        moved = check_grid(label, pred, ours, self.ignore_affine, reference="its label")
        truth, _ = self.classes.to_index(label_values(label, theirs), theirs)
        # nobody predicts "not annotated"
        predicted, _ = replace(self.classes, ignore=None).to_index(label_values(pred, ours), ours)
        odd = [f"{theirs}: {note}" for note in label.notes] + [f"{ours}: {note}" for note in pred.notes]
        names, spacing = self.classes.names, label.spacing
        scores = score_scan(pair.name, predicted, truth, names, spacing, self.surface, self.tolerance)
        return scores, [*odd, f"{ours}: {moved}"] if moved else odd
