"""Pictures of the worst and the best test scans, of which only those that a report shows are drawn and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.evaluation.formatting import read_metrics
from ssmtl_toolkit.foreign import by_the_user, explained
from ssmtl_toolkit.reporting.panels import png_bytes, read_png, write_png
from ssmtl_toolkit.reporting.parts import Picture
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import MetricSpec

End = Literal["worst", "best"]
_NUMBER, _SLICES = 3, 3  # scans of each end, slices of each


@dataclass(frozen=True)
class Drawing:
    """A picture of a scan, and what it shows."""

    image: Image.Image
    shows: str


class Cases:
    """Keeps the worst and the best of the scans that it is offered, by `metric`: Dice, or else the first."""

    def __init__(self, metrics: Sequence[MetricSpec], progress: Progress) -> None:
        named = [metric for metric in metrics if metric.name == "dice"] or list(metrics)
        self.metric, self.progress = named[0], progress
        self._kept: dict[End, list[tuple[float, float, str, Drawing]]] = {"worst": [], "best": []}
        self._failed = False

    def offer(self, name: str, score: float | None, draw: Callable[[], Drawing]) -> None:
        """Draw a scan if it is among the ends so far; a picture that fails is noted, once."""
        if score is None or self._failed:
            return
        sign = 1 if self.metric.higher_is_better else -1
        keys: dict[End, float] = {"worst": sign * score, "best": -sign * score}
        wanted = [end for end, key in keys.items() if len(self._kept[end]) < _NUMBER or key < self._kept[end][-1][0]]
        if not wanted:
            return
        try:
            drawing = draw()
        except BaseException as error:
            if by_the_user(error):
                raise
            self._failed = True
            self.progress.note(f"{name}: its picture for the report cannot be drawn: {explained(error)}")
            return
        for end in wanted:
            kept = sorted([*self._kept[end], (keys[end], score, name, drawing)], key=lambda case: case[0])
            self._kept[end] = kept[:_NUMBER]

    def write(self, folder: Path) -> None:
        """Write the pictures; a scan is shown at one end only."""
        worst = self._kept["worst"]
        shown = {name for _, _, name, _ in worst}
        best = [case for case in self._kept["best"] if case[2] not in shown]
        for end, cases in (("worst", worst), ("best", best)):
            for rank, (_, score, name, drawing) in enumerate(cases, start=1):
                about = {"end": end, "scan": name, "metric": self.metric.full(), "score": score, "shows": drawing.shows}
                write_png(folder / f"{end}-{rank}.png", drawing.image, about)


def telling(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> list[int]:
    """The slices (of S) that tell most: where most is wrong, most of the truth is, and most of it is missed; no
    neighbours, if there are enough slices.
    """
    known = truth != IGNORE
    wrong = ((predicted != truth) & known).reshape(len(truth), -1).sum(axis=1)
    shown = ((truth > 0) & known).reshape(len(truth), -1).sum(axis=1)
    missed = ((predicted != truth) & known & (truth > 0)).reshape(len(truth), -1).sum(axis=1)
    orders = [np.argsort(-counts, kind="stable").tolist() for counts in (wrong, shown, missed)]
    mixed = [row for each in zip(*orders, strict=True) for row in each]
    chosen: list[int] = []
    for row in mixed:
        if len(chosen) < _SLICES and all(abs(row - other) > 1 for other in chosen):
            chosen.append(row)
    return sorted(list(dict.fromkeys([*chosen, *mixed]))[:_SLICES])


def ends(folders: Sequence[Path]) -> dict[End, list[tuple[Picture, dict[str, Any]]]]:
    """The worst and the best of what several folders hold."""
    read = [read_cases(folder) for folder in folders]
    if sum(any(each.values()) for each in read) < 2:
        return next((each for each in read if any(each.values())), {})
    every = [case for each in read for cases in each.values() for case in cases]
    (metric,) = read_metrics([every[0][1]["metric"]])
    every.sort(key=lambda case: case[1]["score"], reverse=not metric.higher_is_better)
    return {"worst": every[:_NUMBER], "best": every[_NUMBER:][-_NUMBER:][::-1]}


def read_cases(folder: Path) -> dict[End, list[tuple[Picture, dict[str, Any]]]]:
    """The pictures that `write` has written, each with what it says of itself."""
    found: dict[End, list[tuple[Picture, dict[str, Any]]]] = {"worst": [], "best": []}
    for file in sorted(folder.glob("*.png")):
        image, about = read_png(file)
        if image is not None and about.get("end") in found:
            alt = f"Test scan {about['scan']}: {about['shows']}"
            picture = Picture(png_bytes(image), alt, width=image.width, height=image.height)
            found[about["end"]].append((picture, about))
    return found
