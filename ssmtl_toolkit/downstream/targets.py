"""What a head learns from and is scored by: label maps, or the slices themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.data.split import Slices
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.largest import Judged
from ssmtl_toolkit.downstream.model import Downstream, Predictor
from ssmtl_toolkit.reporting.cases import Cases
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.specs import MetricSpec, Output, Scan

KEPT = "finished repetitions are kept; continue with --resume"

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class SliceContents:
    """What the slices of one scan offer to learn from, in the order of the cut.

    Attributes:
        annotated: (S,), whether any of its pixels is annotated.
        classes: (S, number of classes), which of them it shows.
        channels: how many the scan has.
        scan: digest of its voxels.
    """

    annotated: NDArray[np.bool_]
    classes: NDArray[np.bool_]
    channels: int
    scan: str

    def slices(self, which: str) -> list[int]:
        """The slices to draw from: those that show a class, or all annotated ones."""
        chosen = self.annotated & self.classes.any(axis=1) if which == "foreground" else self.annotated
        return [int(i) for i in np.flatnonzero(chosen)]


class Targets(ABC):
    """What a head learns from and is scored by, of the scans of one fine-tuning.

    Attributes:
        output: what the head returns.
        what: what usable scans are called.
        classes: the label classes; None without labels.
        notes: what was odd about the scans, a line each.
    """

    output: ClassVar[Output]
    what: ClassVar[str]
    classes: Classes | None = None
    notes: Sequence[str] = ()

    @abstractmethod
    def prepare(self, scan: Scan, *, learned: bool) -> None:
        """Read this scan, unless all that is needed of it is in the cache; `learned`: its slices are needed too.

        Raises:
            DataError: it cannot be used.
        """

    def settle(self, scans: Sequence[Scan]) -> str:
        """Decide what these scans, all that were prepared, decide together; return a note on it, or "".

        Raises:
            DataError: it cannot be decided.
        """
        return ""

    @abstractmethod
    def look(self, scan: Scan) -> SliceContents:
        """What there is to learn from in a scan that was prepared.

        Raises:
            DataError: it cannot be used.
        """

    @abstractmethod
    def tensor(self, store: SliceStore) -> Tensor | None:
        """Targets of all slices in the store, whose scans were looked at; None: the slices are their own."""

    @abstractmethod
    def validator(self, model: Downstream, examples: Examples, rows: Rows, check: Checking) -> Callable[[], float]:
        """Make the score of validation slices `rows`, the higher the better, on the network's own grid."""

    @abstractmethod
    def assess(
        self, predictor: Predictor, test: Sequence[Scan], metrics: Sequence[MetricSpec], cases: Cases | None = None
    ) -> dict[str, Any]:
        """Score whole test scans, as the command that evaluates predictions would; `cases` is offered each of them."""

    def judge_largest(self, predictor: Predictor, validation: Sequence[Scan]) -> dict[str, Judged]:
        """By class, whether its largest part alone is better on these scans; nothing for what has no classes."""
        return {}

    def absent(self, slices: Slices, contents: Mapping[str, SliceContents]) -> list[str]:
        """Names of the classes that none of these training slices shows."""
        return []


@dataclass(frozen=True)
class Checking:
    """How validation slices are put through the network: draws depend on `seed` alone, and are the same every time."""

    batch_size: int
    fabric: Fabric
    seed: int

    def batches(self, model: Downstream, examples: Examples, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the network's maps (n, C, size, size) float32 and the targets, batch by batch."""
        seed_all(step_seed(self.seed, Stream.VALIDATION), self.fabric.device)
        for start in range(0, len(rows), self.batch_size):
            image, target = examples.batch(rows[start : start + self.batch_size], self.fabric.device)
            with torch.inference_mode(), self.fabric.autocast():
                maps = model(model.head.degrade(image)).float()
            yield maps, image if target is None else target
