"""Heads that learn from label maps: scans with their labels as class indices, and scores of predicted label maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.classes import IGNORE, Classes
from ssmtl_toolkit.data.labels import read_label, read_labels
from ssmtl_toolkit.data.prepare import Sliced
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.source import naming_scan
from ssmtl_toolkit.data.split import Slices
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.meaning import Meaning
from ssmtl_toolkit.downstream.model import Downstream, Predictor
from ssmtl_toolkit.downstream.targets import KEPT, Checking, Rows, SliceContents, Targets
from ssmtl_toolkit.engine.metric import Counts
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.evaluation import scores
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.specs import MetricSpec, Output, Scan
from ssmtl_toolkit.text import printable


class LabelTargets(Targets):
    """Label maps as class indices, each checked against the grid of its scan."""

    output: ClassVar[Output] = "labels"
    what: ClassVar[str] = "labelled scans"

    def __init__(
        self, config: ResolvedFinetune, slicing: Slicing, readers: Readers, classes: Classes, *, refuse_others: bool
    ) -> None:
        """`refuse_others`: label values that are assigned to no class are an error, not background."""
        self._config, self._slicing, self._readers = config, slicing, readers
        self._others = "refuse" if refuse_others else "background"
        self.classes: Classes = classes
        self.notes: list[str] = []
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def read(self, scan: Scan) -> tuple[Volume, NDArray[np.uint8]]:
        """Return the scan, and the class index (I, J, K) of its voxels, `IGNORE` where nothing is annotated.

        Raises:
            DataError: naming the file: it cannot be read, is no label map, or is not on the grid of its scan.
        """
        if scan.label is None:
            raise DataError(f"{printable(scan.path)}: has no label map")
        volume = self._readers.read_scan(scan, self._slicing.volume)
        where = printable(scan.label)
        labels = read_labels(
            read_label(scan, self._readers, volume, self.classes),
            volume,
            self.classes,
            where,
            axis=self._slicing.axis,
            annotated=scan.annotated,
            ignore_affine=self._config.ignore_affine,
            others=self._others,  # type: ignore[arg-type]
        )
        for note in labels.notes:
            if f"{where}: {note}" not in self.notes:
                self.notes.append(f"{where}: {note}")
        return volume, labels.index

    def look(self, scan: Scan, *, keep: bool) -> SliceContents:
        """Read a label map and tell what it shows."""
        volume, labels = self.read(scan)
        with naming_scan(scan.path):
            sliced = Sliced.of(volume, self._slicing)
        index = sliced.prepared_labels(labels)
        if keep:  # so that no map is read twice
            self._kept[scan.name] = sliced.labels(labels)
        flat = index.reshape(len(index), -1)
        classes = [np.isin(flat, np.flatnonzero(owned)).any(axis=1) for owned in self.classes.members]
        return SliceContents((flat != IGNORE).any(axis=1), np.stack(classes, axis=1), sliced.channels)

    def tensor(self, store: SliceStore) -> Tensor:
        """Class indices (total, H, W) uint8 of the store's slices, each pixel the one at its centre."""
        indices = torch.full((len(store.slices), *store.slices.shape[2:]), IGNORE, dtype=torch.uint8)
        for stored in store.scans:
            index = np.ascontiguousarray(self._kept.pop(stored.scan.name))
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

    def assess(self, predictor: Predictor, test: Sequence[Scan], metrics: Sequence[MetricSpec]) -> dict[str, Any]:
        """Scores on each scan's own grid, as `ssmtl evaluate` gives them for the files of `ssmtl predict`."""
        scored = []
        for scan in test:
            volume, truth = self.read(scan)
            predicted = predictor.labels(volume)
            scored.append(scores.score_scan(scan.name, predicted, truth, self.classes, volume.spacing, metrics))
            interrupts.check(KEPT)
        return scores.summarise(scored, metrics)
