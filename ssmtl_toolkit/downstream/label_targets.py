"""Heads that learn from label maps: scans with their labels as class indices, and scores of predicted label maps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.classes import IGNORE, Classes, Others
from ssmtl_toolkit.data.label_pieces import LabelPiece, find_labels
from ssmtl_toolkit.data.labels import find_classes, one_of_several, read_labels
from ssmtl_toolkit.data.overlay import beside
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.split import Slices
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.downstream import largest
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.largest import Judged
from ssmtl_toolkit.downstream.meaning import Meaning
from ssmtl_toolkit.downstream.model import Downstream, Predictor
from ssmtl_toolkit.downstream.targets import KEPT, Checking, Rows, SliceContents, Targets
from ssmtl_toolkit.engine.metric import Counts
from ssmtl_toolkit.evaluation import scores
from ssmtl_toolkit.reporting.cases import Cases, Drawing, telling
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.specs import MetricSpec, Output, Scan
from ssmtl_toolkit.text import printable


class LabelTargets(Targets):
    """Label maps as class indices, each checked against the grid of its scan."""

    output: ClassVar[Output] = "labels"
    what: ClassVar[str] = "labelled scans"

    def __init__(
        self,
        config: ResolvedFinetune,
        reading: Reading,
        classes: Classes | None,
        ignored: int | None,
        *,
        refuse_others: bool,
    ) -> None:
        """`classes`: None if each value in the label maps is one, but 0 and `ignored`.

        `refuse_others`: label values that are assigned to no class are an error, not background.
        """
        self._config, self._reading, self._ignored = config, reading, ignored
        self._others: Others = "refuse" if refuse_others else "background"
        self.classes: Classes = classes or Classes(())
        self.notes: list[str] = []
        self._labels: dict[str, LabelPiece] = {}

    def prepare(self, scan: Scan, *, learned: bool) -> None:
        """Read a scan and its labels; those that are tested on are kept in memory for that."""
        with self._reading.decoded.holding(scan, keep=not learned or self._reading.slicing.normalise == "data"):
            self._labels[scan.name] = find_labels(
                scan,
                self._reading,
                ignore_affine=self._config.ignore_affine,
                empty_frames=self._config.empty_frames,
            )
            if learned and self._reading.slicing.normalise != "data":
                self._reading.slices(scan)

    def settle(self, scans: Sequence[Scan]) -> str:
        """Make a class of each value in the label maps, unless classes are known."""
        if len(self.classes):
            return ""
        pieces = (self._labels[scan.name] for scan in scans)
        self.classes, note = find_classes(((piece.where, piece.values) for piece in pieces), self._ignored)
        return note

    def look(self, scan: Scan) -> SliceContents:
        """What a label map shows."""
        piece = self._labels[scan.name]
        meant = piece.meant(self.classes, self._others)
        self._note(f"{piece.where}: {note}" for note in meant.notes)
        shown = piece.shown()
        owned = [np.isin(meant.indices, np.flatnonzero(members)) for members in self.classes.members]
        shows = np.stack([shown[:, codes].any(axis=1) for codes in (meant.indices != IGNORE, *owned)], axis=1)
        return SliceContents(shows[:, 0], shows[:, 1:], piece.about.channels, piece.about.scan)

    def _note(self, notes: Iterable[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    def tensor(self, store: SliceStore) -> Tensor:
        """Class indices (total, H, W) uint8 of the store's slices, each pixel the one at its centre."""
        indices = torch.full((len(store.slices), *store.slices.shape[2:]), IGNORE, dtype=torch.uint8)
        for stored in store.scans:
            piece = self._labels[stored.scan.name]
            index = piece.slices(piece.meant(self.classes, self._others))
            _, height, width = index.shape
            indices[stored.start : stored.start + stored.count, :height, :width] = torch.from_numpy(index)
        return indices

    def absent(self, slices: Slices, contents: Mapping[str, SliceContents]) -> list[str]:
        """Names of the classes that none of these training slices shows."""
        shown = np.zeros(len(self.classes), bool)
        for name, rows in slices.items():
            shown |= contents[name].classes[list(rows)].any(axis=0)
        return [name for name, is_shown in zip(self.classes.names, shown, strict=True) if not is_shown]

    def validator(self, model: Downstream, examples: Examples, rows: Rows, check: Checking) -> Callable[[], float]:
        """Mean over classes of the IoU pooled over all validation slices, on the network's own grid."""
        meaning, members = Meaning.of(self.classes), self.classes.members

        def validate() -> float:
            counts = np.zeros((3, len(self.classes)), np.int64)
            for maps, target in check.batches(model, examples, rows):
                index, truth = (part.to(torch.uint8).cpu().numpy() for part in (meaning.index(maps), target))
                counts += scores.count(index, truth, members)
            each = (Counts(*numbers).iou for numbers in counts.T.tolist())
            defined = [value for value in each if value is not None]
            return float(np.mean(defined)) if defined else 0.0

        return validate

    def assess(
        self, predictor: Predictor, test: Sequence[Scan], metrics: Sequence[MetricSpec], cases: Cases | None = None
    ) -> dict[str, Any]:
        """Scores on each scan's own grid, as `ssmtl evaluate` gives them for the files of `ssmtl predict`."""
        scored = []
        for scan in test:
            volume, truth = self._on_own_grid(scan)
            predicted = predictor.labels(volume)
            scored.append(scores.score_scan(scan.name, predicted, truth, self.classes, volume.spacing, metrics))
            if cases is not None and truth.ndim == 3:
                dice = scored[-1].mean(cases.metric.name)
                cases.offer(scan.name, dice, functools.partial(self._drawn, volume, predicted, truth))
            interrupts.check(KEPT)
        return scores.summarise(scored, metrics)

    def judge_largest(self, predictor: Predictor, validation: Sequence[Scan]) -> dict[str, Judged]:
        """By class, whether its largest part alone has the higher Dice on these scans, each on its own grid."""
        read = (self._on_own_grid(scan) for scan in validation)
        return largest.judge(((predictor.labels(volume), truth) for volume, truth in read), self.classes)

    def _on_own_grid(self, scan: Scan) -> tuple[Volume, NDArray[np.uint8]]:
        """A scan, and the class index (I, J, K) of its voxels, `IGNORE` where nothing is annotated.

        Raises:
            DataError: naming the file: it cannot be used, or no longer.
        """
        with self._reading.decoded.holding(scan, keep=True):
            volume = self._reading.decoded.scan(scan)
            label = self._reading.decoded.label_of(scan, self.classes)
        labels = read_labels(
            label,
            volume,
            self.classes,
            printable(scan.label or scan.path),
            axis=self._reading.slicing.axis,
            annotated=scan.annotated,
            ignore_affine=self._config.ignore_affine,
            others=self._others,
            empty_frames=self._config.empty_frames,
            one_of_several=one_of_several(scan, self._reading.decoded.readers, self._reading.slicing.volume),
        )
        return volume, labels.index

    def _drawn(self, volume: Volume, predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Drawing:
        """The slices that tell most about a scan, with truth and prediction."""
        stack = Stack.of(volume, self._reading.slicing.axis)
        ours, theirs = stack.cut(predicted), stack.cut(truth)
        rows = telling(ours, theirs)
        picture = beside(stack.slices[:, 0], ours, theirs, rows, stack.spacing, self.classes)
        return Drawing(picture, f"slices {', '.join(map(str, rows))}; colour: prediction, white line: truth")
