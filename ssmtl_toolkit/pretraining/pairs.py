"""What pairs the scans give each task: for how many slices, how far away, and whether a smaller t gives better ones."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ssmtl_toolkit.data.held_out import likely_patients
from ssmtl_toolkit.data.sampling import Rows
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.distance import distances_among
from ssmtl_toolkit.engine.contract import companions_of
from ssmtl_toolkit.inspection.distance import ENOUGH
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import TaskSpec
from ssmtl_toolkit.text import counted, rounded

_BLANK = 0.5  # correlation of slices of unit variance below which 2 - 2r, the error of copying, is above 1
_SAMPLE = 32  # pairs that a correlation is estimated from


@dataclass(frozen=True)
class Pairs:
    """The pairs of one task.

    Attributes:
        share: of all slices, those that have a partner (each of their partners, if a task names several).
        slices: the nearest and the farthest partner, in slices.
        apart: the same in `unit`, mm or ms.
        correlation: of slices with their nearest partner, estimated; None for a task that does not ask for it.
        hint: which distance would give more pairs, or slices more alike: "try t=1 or 2"; empty if this one is good.
    """

    share: float
    slices: tuple[int, int]
    apart: tuple[float, float]
    correlation: float | None
    hint: str
    unit: str = "mm"

    def __str__(self) -> str:
        plural = "" if self.slices[1] == 1 else "s"
        length = f" ({_range(self.apart)} {self.unit})" if any(self.apart) else ""
        away = f"{_range(self.slices)} slice{plural}{length} away"
        return f"{_percent(self.share)} of the slices have a partner, {away}"


class Stacks:
    """The stacks of slices in a store, and what pairs they give."""

    def __init__(self, store: SliceStore) -> None:
        self.store = store
        self.extents = store.extents
        self.spacings = sorted({extent.spacing for extent in self.extents})

    @cached_property
    def _alike(self) -> Counter[tuple[float, int]]:
        """How many stacks there are of each spacing and length."""
        alike: Counter[tuple[float, int]] = Counter()
        for extent in self.extents:
            alike[extent.spacing, extent.length] += len(extent.sequences)
        return alike

    @cached_property
    def counts(self) -> list[int]:
        """The lengths of the scans."""
        return [extent.count for extent in self.extents]

    def __str__(self) -> str:
        shortest, longest = min(self.counts), max(self.counts)
        usual = f", median {statistics.median(self.counts):g}" if shortest != longest else ""
        number = len(set(likely_patients([scan.scan for scan in self.store.scans])))
        patients = f" of {counted(number, 'patient')}" if number != len(self.counts) else ""
        channels = f", {self.store.channels} channels" if self.store.channels > 1 else ""
        return (
            f"{counted(len(self.counts), 'scan')}{patients}, {counted(sum(self.counts), 'slice')} "
            f"({_range(self.counts)} a scan{usual}){self._in_time}, "
            f"{self._apart}{channels}"
        )

    @property
    def _in_time(self) -> str:
        frames = [extent.frames for extent in self.extents if extent.frames]
        return f" in sequences of {_range(frames)} frames" if frames else ""

    @property
    def _apart(self) -> str:
        known = f"{_range(self.spacings)} {self.store.unit} apart"
        return known if all(self.spacings) else f"unknown {self.store.unit} apart"

    def to_json(self) -> dict[str, Any]:
        """Lengths of the scans and distances between their slices: least, median and most."""
        spacings = [extent.spacing for extent in self.extents]
        return {"slices": _least_median_most(self.counts), self.store.unit: _least_median_most(spacings)}

    def pairs_of(self, tasks: Sequence[TaskSpec]) -> dict[str, Pairs]:
        """What each task with companions gets, by its label."""
        return {str(task): pairs for task in tasks if (pairs := self._pairs(task))}

    def _pairs(self, task: TaskSpec) -> Pairs | None:
        """What this task gets; None for one without companions."""
        steps = list(self._steps(task))
        if not steps:
            return None
        slices, apart = [abs(step) for step, _ in steps], [abs(step) * spacing for step, spacing in steps]
        share, correlation = self.share(task), self.correlation(task)
        hint, farthest = self._hint(task, max(slices)), (min(slices), max(slices))
        return Pairs(share, farthest, (min(apart), max(apart)), correlation, hint, self.store.unit)

    def share(self, task: TaskSpec) -> float:
        """Of all slices, those that have a partner under each name."""
        with_partner: Counter[str] = Counter()
        for (spacing, count), number in self._alike.items():
            for name, offsets in companions_of(task, spacing).items():
                with_partner[name] += number * _with_partner(offsets, count)
        return min(with_partner.values()) / sum(self.counts)

    def correlation(self, task: TaskSpec) -> float | None:
        """Estimate how alike slices and their nearest partners are, from pairs evenly spread over the scans."""
        if task.least_correlation is None:
            return None
        anchors, partners = self._nearest(task)
        if not len(anchors):
            return None
        chosen = np.linspace(0, len(anchors) - 1, min(_SAMPLE, len(anchors))).round().astype(np.int64)
        rows = torch.from_numpy(np.concatenate([anchors[chosen], partners[chosen]]))
        images = self.store.gather(rows, torch.device("cpu"))
        coarse = images[..., :: max(1, images.shape[-2] // 64), :: max(1, images.shape[-1] // 64)]
        anchor, partner = (part - part.mean(dim=(-2, -1), keepdim=True) for part in coarse.chunk(2))
        norm = float((anchor.square().sum() * partner.square().sum()).sqrt())
        return float((anchor * partner).sum()) / norm if norm else 0.0

    def _nearest(self, task: TaskSpec) -> tuple[Rows, Rows]:
        """All slices that have their nearest partner, and these partners."""
        anchors, partners = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for extent in self.extents:
            offsets = [offset for named in companions_of(task, extent.spacing).values() for offset in named]
            if offsets:
                offset = min(offsets, key=abs)
                index = np.arange(max(0, -offset), extent.length - max(0, offset))
                rows = np.concatenate([index + start for start in extent.sequences])
                anchors.append(rows)
                partners.append(rows + offset)
        return np.concatenate(anchors), np.concatenate(partners)

    def _steps(self, task: TaskSpec) -> Iterator[tuple[int, float]]:
        for spacing in self.spacings:
            for offsets in companions_of(task, spacing).values():
                yield from ((offset, spacing) for offset in offsets)

    def _hint(self, task: TaskSpec, farthest: int) -> str:
        """Name the distances below this one that are good, by halving; the smallest if none is."""
        fields = distances_among(type(task).model_fields)
        if self._is_good(task) or len(fields) != 1 or farthest < 2:
            return ""
        (name,) = fields
        low, high = 0, farthest - 1
        while low < high:
            middle = (low + high + 1) // 2
            good = self._is_good(task.model_copy(update={name: middle}))
            low, high = (middle, high) if good else (low, middle - 1)
        return f"try {name}=1" + {0: "", 1: "", 2: " or 2"}.get(low, f" to {low}")

    def _is_good(self, task: TaskSpec) -> bool:
        if self.share(task) < ENOUGH:
            return False
        correlation = self.correlation(task)
        return correlation is None or task.least_correlation is None or correlation >= task.least_correlation


def tell_pairs(stacks: Stacks, tasks: Sequence[TaskSpec], pairs: Mapping[str, Pairs], progress: Progress) -> None:
    """Say how long the stacks are, what pairs each task gets from them, and note what is wrong with those."""
    progress.say(f"scans     {stacks}")
    for line in _together({label: str(task_pairs) for label, task_pairs in pairs.items()}):
        progress.say(f"pairs     {line}")
    faults = {str(task): _faults(task, pairs[str(task)]) for task in tasks if str(task) in pairs}
    for line in _together({label: text for label, text in faults.items() if text}):
        progress.note(line)


def _faults(task: TaskSpec, pairs: Pairs) -> str:
    """What is wrong with the distance that a task was given, and what to try."""
    faults = []
    if pairs.share < ENOUGH:
        faults.append(f"only {_percent(pairs.share)} of the slices have a partner")
    if pairs.correlation is not None and pairs.correlation < (task.least_correlation or -1):
        about = f"little in common (correlation about {pairs.correlation:.2f})"
        worse = ", copying one is a worse guess than a blank slice" if pairs.correlation < _BLANK else ""
        faults.append(f"slices {_range(pairs.apart)} {pairs.unit} apart have {about}{worse}")
    if faults and pairs.hint:
        (name,) = distances_among(type(task).model_fields)
        faults.append(f"{pairs.hint}, or {name}=auto")
    return "; ".join(faults)


def pairs_json(pairs: Mapping[str, Pairs]) -> dict[str, Any]:
    """For summary.json."""
    return {label: _pairs_json(one) for label, one in pairs.items()}


def _pairs_json(pairs: Pairs) -> dict[str, Any]:
    """As plain values; the distance is called by its unit."""
    plain = {(pairs.unit if name == "apart" else name): value for name, value in asdict(pairs).items()}
    del plain["unit"]
    return plain | {"slices": list(pairs.slices), pairs.unit: list(pairs.apart)}


def _with_partner(offsets: Sequence[int], count: int) -> int:
    """How many of `count` slices have another one of them at one of these offsets."""
    ahead = min((o for o in offsets if o > 0), default=count)
    behind = min((-o for o in offsets if o < 0), default=count)
    return count - max(0, min(behind, count) - max(count - ahead, 0))


def _together(texts: Mapping[str, str]) -> list[str]:
    """`label, label: text`, for each different text."""
    labels: dict[str, list[str]] = {}
    for label, text in texts.items():
        labels.setdefault(text, []).append(label)
    return [f"{', '.join(same)}: {text}" for text, same in labels.items()]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _range(numbers: Collection[float]) -> str:
    low, high = (f"{n}" if isinstance(n, int) else rounded(n) for n in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def _least_median_most(numbers: Sequence[float]) -> list[float]:
    return [min(numbers), statistics.median(numbers), max(numbers)]
