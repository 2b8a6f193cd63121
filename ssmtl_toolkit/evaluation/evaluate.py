"""Evaluation: predicted label maps against labels, file by file, from paths to a summary of scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.config import EvaluateConfig
from ssmtl_toolkit.config.signatures import takes
from ssmtl_toolkit.data.classes import IGNORE, Classes
from ssmtl_toolkit.data.finding import PREDICTION
from ssmtl_toolkit.data.grid import check_grid, turned
from ssmtl_toolkit.data.labelmap import looks_like_labels
from ssmtl_toolkit.data.labels import label_values, one_of_several, read_label, stored_label, without_label
from ssmtl_toolkit.data.named import merged
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.evaluation.overlays import Overlays, overlays
from ssmtl_toolkit.evaluation.pairing import Pair, Pairing, pair_files
from ssmtl_toolkit.evaluation.scores import ScanScores, score_scan, summarise
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.results import Rows, Shown
from ssmtl_toolkit.runtime.scans import default_cache, installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import DatasetSpec, MetricSpec, Scan
from ssmtl_toolkit.text import counted, printable, shortened

if TYPE_CHECKING:
    from ssmtl_toolkit.config.typed import EvaluateOptions

_SHOWN = 10
_MANY = 64  # values, from which on a file may well be a scan


@dataclass(frozen=True, repr=False)
class Evaluated(Shown):
    """The scores of predictions.

    Attributes:
        pred: the predictions, a file or a folder.
        label: the labels, the same.
        labels: what the values in the files mean.
        metrics: what the predictions were scored by.
        surface: whether HD95 and surface Dice are among them.
        tolerance: mm, of surface Dice.
        scans: the scores of each pair.
        unpaired_predictions: the names of predictions without a label.
        unpaired_labels: the names of labels without a prediction.
        notes: what a user should know, a line each.
    """

    pred: Path
    label: Path
    labels: Classes
    metrics: tuple[MetricSpec, ...]
    surface: bool
    tolerance: float
    scans: tuple[ScanScores, ...]
    unpaired_predictions: tuple[str, ...]
    unpaired_labels: tuple[str, ...]
    notes: tuple[str, ...]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `ssmtl evaluate --json` prints."""
        return {
            "pred": printable(self.pred),
            "label": printable(self.label),
            "class_values": self.labels.to_json(),
            "surface": self.surface,
            "tolerance_mm": self.tolerance,
            "metrics": [metric.full() for metric in self.metrics],
            **summarise(self.scans, self.metrics),
            "unpaired": {"predictions": len(self.unpaired_predictions), "labels": len(self.unpaired_labels)},
            "notes": list(self.notes),
        }

    @property
    def classes(self) -> dict[str, dict[str, Any]]:
        """For each class its pooled IoU and Dice, and of each metric the spread over scans, as `summarise` says."""
        classes: dict[str, dict[str, Any]] = self.summary["classes"]
        return classes

    @property
    def mean(self) -> dict[str, float | None]:
        """The mean over the classes of each metric; None: no class has a score."""
        mean: dict[str, float | None] = self.summary["mean"]
        return mean

    def shown(self) -> tuple[str, Rows]:
        title = f"Evaluated: {counted(len(self.scans), 'scan')} of {printable(self.pred)}"
        return title, [["class", *map(formatting.heading, self.metrics)], *self._rows()]

    def _rows(self) -> Rows:
        classes = [
            [name, *((formatting.number if m.pooled else formatting.spread)(m, values[m.name]) for m in self.metrics)]
            for name, values in self.classes.items()
        ]
        return [*classes, ["mean", *(formatting.number(m, self.mean[m.name]) for m in self.metrics)]]


@takes(EvaluateConfig)
def evaluate(
    pred: str | os.PathLike[str],
    label: str | os.PathLike[str],
    config: EvaluateConfig | None = None,
    /,
    *,
    overlay: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Unpack[EvaluateOptions],
) -> Evaluated:
    """Score predicted label maps against labels, each pair on the grid of the label.

    Args:
        pred: a file, a folder of files, or what `predict` returned.
        label: a file or folder; files of folders are paired by their paths in there, without suffix. Or the data set
            itself, a folder or `name:…`, whose labelled scans the predictions are called after.
        config: all options as one object, or instead of it …
        options: … any of `EvaluateConfig`'s options by name. Without `classes`, the values mean what `prediction.json`
            beside the predictions says, or the data set, or else each value in the files is a class.
        overlay: an empty folder, or one with the same pictures, into which truth and prediction of each scan are
            drawn, the worst first; over the scans, if the labels are given as a data set.
        progress: is notified of what happens, to show it.

    Raises:
        UsageError: options are wrong, or a metric is requested whose packages (MONAI) are not installed.
        DataError: naming the file or folder that cannot be used, and why.
    """
    if config is not None and options:
        raise UsageError(f"both a configuration and options ({', '.join(options)}) are given; put them into one")
    config, progress = config or EvaluateConfig.of(options), progress or Progress()
    metrics = config.chosen_metrics("labels")
    pred, label = Path(pred), Path(label)
    readers = _AsStored(installed_readers(), _volume(pred, config))
    dataset, labelled = _labelled(label)
    pairing = pair_files(pred, label, readers.one, labelled)
    notes = [*pairing.notes(), *config.unused(metrics)]
    if omitted := config.omitted("labels"):
        notes.append(omitted)
    labels, origin = _find_classes(pairing, pred, config, dataset, readers)
    with overlays(overlay, _ranked_by(metrics), readers.one, pairing.pairs) as drawn:
        scans, odd = _score(pairing, _Scorer(labels, readers, metrics, config, drawn), progress)
    overlap = [f"classes that overlap, each scored by itself: {labels}"] if labels.overlap else []
    notes += [*odd, *origin, *overlap]
    for note in shortened(notes, _SHOWN, " such notes"):
        progress.note(note)
    return Evaluated(
        pred,
        label,
        labels,
        metrics,
        surface={"hd95", "surface_dice"} <= {metric.name for metric in metrics},
        tolerance=_tolerance(metrics, config.tolerance),
        scans=tuple(scans),
        unpaired_predictions=pairing.predictions,
        unpaired_labels=pairing.labels,
        notes=tuple(notes),
    )


def _ranked_by(metrics: Sequence[MetricSpec]) -> MetricSpec:
    """Dice, or else the first."""
    return next((metric for metric in metrics if metric.name == "dice"), metrics[0])


def _tolerance(metrics: Iterable[MetricSpec], default: float) -> float:
    """That of surface Dice, which may be named with another one than --tolerance."""
    return next((float(getattr(m, "tolerance", default)) for m in metrics if m.name == "surface_dice"), default)


def _score(pairing: Pairing, scorer: _Scorer, progress: Progress) -> tuple[list[ScanScores], list[str]]:
    """The scores of all pairs, and what is worth a note about them."""
    scans: list[ScanScores] = []
    notes: list[str] = []
    progress.preparing(len(pairing.pairs))
    with interrupts:
        for pair in pairing.pairs:
            scan, odd = scorer.score(pair)
            scans.append(scan)
            notes += [*odd, *scan.failures]
            progress.prepared(pair.name)
            interrupts.check("nothing was written")
    progress.done()
    return scans, notes


def _labelled(label: Path) -> tuple[DatasetSpec | None, list[Scan]]:
    """The data set that this is, and its labelled scans; nothing if it is label maps."""
    text = str(label)
    if not label.exists() and ":" not in text:
        return None, []  # said better by who looks for the files
    dataset = dataset_of(text)
    try:
        scans = [scan for scan in list_scans(dataset, default_cache()) if scan.label and not scan.unfit]
    except DataError:
        if not label.exists():
            raise
        return None, []
    return (dataset if scans else None), scans


def _find_classes(
    pairing: Pairing, pred: Path, config: EvaluateConfig, dataset: DatasetSpec | None, readers: _AsStored
) -> tuple[Classes, list[str]]:
    """The classes, and what a user should know about where they come from."""
    saved = _saved_classes(pred)
    known = dict(dataset.classes()) if dataset else {}
    ignore = config.ignore_value
    if ignore is None:
        ignore = saved.ignore if saved else dataset.ignored() if dataset else None
    if saved is None and known and config.classes is None:
        return Classes.parse("", known, ignore), []
    if config.classes is not None:
        if saved is not None:
            known = {label_class.name: label_class.values for label_class in saved.classes}
        chosen = Classes.parse(config.classes, known, ignore)
        taken = {ignore, *(value for label_class in chosen.classes for value in label_class.values)}
        more = {*chosen.background, *(saved.background if saved else ())} - taken
        return replace(chosen, background=tuple(sorted(more))), []
    if saved is not None:
        return replace(saved, ignore=ignore), []
    truths = [pair.label for pair in pairing.pairs if not pair.truth.masks]
    predictions = [pair.pred for pair in pairing.pairs if readers.one.classes(pair.pred)]
    named = merged([*truths, *predictions], readers.one.classes)
    if not named.agreed and len(predictions) < len(pairing.pairs):
        raise DataError(
            f"{printable(pairing.pairs[0].label)}: the label files number their classes differently, and nothing says "
            f"which values the predictions have; name them with --classes, as in {next(iter(named.classes))}=1"
        )
    if named.classes:
        return Classes.parse("", named.classes, ignore), [named.note]
    return _classes_by_values(pairing, ignore, readers)


def _classes_by_values(pairing: Pairing, ignore: int | None, readers: _AsStored) -> tuple[Classes, list[str]]:
    """A class of each value in the files."""
    values: set[int] = set()
    for pair in pairing.pairs:
        fitting = readers.of(pair.pred)
        label, pred = stored_label(pair.truth, fitting, readers.volume), fitting.read(pair.pred)
        for file, volume in ((pair.label, label), (pair.pred, pred)):
            where = printable(file)
            new = np.unique(label_values(volume, where)).tolist()
            if len(new) > _MANY and not looks_like_labels(volume):
                raise DataError(_is_scan(where, len(new)))
            values.update(new)
    classes = Classes.of_values(values, ignore)
    if not len(classes):
        raise DataError(
            f"the {len(pairing.pairs)} pairs of files hold nothing but background; if that is right, name the classes "
            f"with --classes"
        )
    return classes, [f"label classes by their values: {', '.join(classes.names)}; --classes names them"]


def _is_scan(where: str, values: int) -> str:
    return (
        f"{where}: looks like a scan, not a label map: it has {values} values, and neighbours differ; give label maps "
        f"as --pred and --label"
    )


def _saved_classes(pred: Path) -> Classes | None:
    """What the values of predictions mean, if prediction.json says so."""
    classes = _saved(pred).get("classes")
    return None if classes is None else Classes.from_json(classes, printable(_beside(pred)))


def _saved(pred: Path) -> dict[str, Any]:
    """What prediction.json beside predictions says; {} if there is none."""
    file = _beside(pred)
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(file)}: cannot be read ({error}); remove it, and give --classes") from None
    return content


def _beside(pred: Path) -> Path:
    return (pred if pred.is_dir() else pred.parent) / PREDICTION


@dataclass(frozen=True)
class _AsStored:
    """Readers `of` a prediction and its label: in time if the prediction is 4-D, else that `volume` of 4-D labels.

    Attributes:
        one: the readers of files that are single volumes.
    """

    one: Readers
    volume: int | None

    def of(self, pred: Path) -> Readers:
        """Those for this prediction."""
        single = self.one.label_rank(pred) is not None or self.one.header(pred).volumes == 1
        return self.one if single else installed_readers(in_time=True)


def _volume(pred: Path, config: EvaluateConfig) -> int | None:
    """Which volume of 4-D scans the predictions are of, as said or as prediction.json records; None: unknown."""
    if config.volume is not None:
        return config.volume
    records = _saved(pred).get("files")
    each = [record for record in (records.values() if isinstance(records, dict) else ()) if isinstance(record, dict)]
    options = [record["options"] for record in each if isinstance(record.get("options"), dict)]
    volumes = {one["volume"] for one in options if isinstance(one.get("volume"), int)}
    return volumes.pop() if len(volumes) == 1 else None


@dataclass(frozen=True)
class _Scorer:
    """Scores pairs of files."""

    classes: Classes
    readers: _AsStored
    metrics: Sequence[MetricSpec]
    config: EvaluateConfig
    overlays: Overlays | None = None

    def score(self, pair: Pair) -> tuple[ScanScores, list[str]]:
        """Return the scores of one pair, and what is worth a note about it.

        Raises:
            DataError: naming the file: it cannot be read, is no label map, has values assigned to no class, or is not
                on the grid of its label.
        """
        readers, ignore_affine = self.readers.of(pair.pred), self.config.ignore_affine
        pred, label = self._read(pair, readers)
        ours, theirs = printable(pair.pred), printable(pair.label)
        pred = pred if ignore_affine else turned(pred, label)
        moved = check_grid(label, pred, ours, ignore_affine, reference="its label")
        truth, notes = self._index(self.classes, label, theirs), list(label.notes)
        several = label.frames is not None or one_of_several(pair.truth, readers, self.readers.volume)
        if several and self.config.empty_frames == "ignore":
            empty = without_label(label_values(label, theirs), notes)
            truth = truth if empty is None else np.where(empty, np.uint8(IGNORE), truth)
        # a prediction has no "not annotated"
        predicted = self._index(replace(self.classes, ignore=None), pred, ours)
        odd = [f"{theirs}: {note}" for note in notes] + [f"{ours}: {note}" for note in pred.notes]
        scores = score_scan(pair.name, predicted, truth, self.classes, label.spacing, self.metrics)
        if self.overlays is not None:
            mean = scores.mean(self.overlays.metric.name)
            self.overlays.draw(pair, predicted, truth, label, self.classes, mean)
        return scores, [*odd, f"{ours}: {moved}"] if moved else odd

    def _read(self, pair: Pair, readers: Readers) -> tuple[Volume, Volume]:
        """The prediction and its label map. What refers to a scan lies on its grid, or, without it, on the other's."""
        refer = [file for file in (pair.pred, pair.label) if readers.label_rank(file) is not None]
        if refer and pair.truth.path != pair.label:
            grid = readers.header(pair.truth.path).empty()
        else:
            grid = readers.read(pair.label if pair.pred in refer else pair.pred)
        if pair.pred in refer or readers.classes(pair.pred):
            pred = readers.read_label(pair.pred, grid, self.classes)
        else:
            pred = readers.read(pair.pred)
        return pred, read_label(self._by_name(pair.truth), readers, grid, self.classes, self.readers.volume)

    def _by_name(self, truth: Scan) -> Scan:
        """Give each mask the value of the class of its name; 0 if there is none."""
        values = {label_class.name: label_class.values[0] for label_class in self.classes.classes}
        return replace(truth, masks=tuple(mask._replace(value=values.get(mask.name, 0)) for mask in truth.masks))

    @staticmethod
    def _index(classes: Classes, volume: Volume, where: str) -> NDArray[np.uint8]:
        values = label_values(volume, where)
        try:
            return classes.to_index(values, where)[0]
        except DataError:
            if looks_like_labels(volume):
                raise
            raise DataError(_is_scan(where, len(np.unique(values)))) from None
