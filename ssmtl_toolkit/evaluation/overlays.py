"""Pictures of scored scans, truth and prediction over the slices, named by rank: the worst first."""

from __future__ import annotations

import contextlib
import filecmp
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.disk import whole_folder
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation.pairing import Pair
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.text import printable


@contextlib.contextmanager
def overlays(
    folder: str | os.PathLike[str] | None, metric: MetricSpec, readers: Readers, pairs: Sequence[Pair]
) -> Iterator[Overlays | None]:
    """Draw pairs in the block; at its end the folder is there, the files named by rank in `metric`.

    It may be there already, if it holds the same pictures: those of a process that was killed after it drew them.

    Raises:
        UsageError: the folder holds something else, or is none.
        SsmtlError: it cannot be written.
    """
    if folder is None:
        yield None
        return
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise UsageError(f"{printable(place)}: is a file; give --overlay the name of a folder")
    before = {file.name.partition("-")[2]: file for file in (place.iterdir() if place.is_dir() else ())}
    if not before.keys() <= set(map(_name, pairs)):
        raise _not_empty(place)
    with whole_folder(place) as unfinished:
        drawn = Overlays(unfinished, metric, readers, before)
        yield drawn
        drawn.rank()


def _name(pair: Pair) -> str:
    """The name of a pair's picture, without its rank."""
    return f"{printable(pair.name).replace('/', '_')}.png"


def _not_empty(folder: Path) -> UsageError:
    return UsageError(f"{printable(folder)}: is not empty; choose another folder for --overlay")


class Overlays:
    """Draws every pair into a folder; `rank` then names the files."""

    def __init__(self, folder: Path, metric: MetricSpec, readers: Readers, before: Mapping[str, Path]) -> None:
        """`metric` ranks; `before` are the pictures, by their names without rank, that must be equal."""
        self.folder, self.metric, self.readers, self.before = folder, metric, readers, before
        self._drawn: list[tuple[float, Path]] = []

    def draw(
        self,
        pair: Pair,
        predicted: NDArray[np.uint8],
        truth: NDArray[np.uint8],
        label: Volume,
        classes: Classes,
        score: float | None,
    ) -> None:
        """Draw one pair, class indices (I, J, K) on the grid of its label, over the scan if it is known.

        Raises:
            UsageError: it was drawn before, and is no longer the same.
        """
        from ssmtl_toolkit.data.overlay import overlay

        if truth.ndim > 3:
            raise UsageError(f"{printable(pair.label)}: scans in time are not drawn; omit --overlay")
        scan = self._scan(pair, label)
        stack = Stack.of(scan or label, "acquisition")
        slices = stack.slices[:, 0] if scan else np.zeros_like(stack.cut(truth), np.float32)
        value = (
            "no score" if score is None else f"{self.metric.title or self.metric.name} {score:.{self.metric.digits}f}"
        )
        file = self.folder / _name(pair)
        overlay(file, slices, stack.cut(predicted), stack.spacing, classes, truth=stack.cut(truth), remark=value)
        earlier = self.before.get(file.name)
        if earlier is not None and not (earlier.is_file() and filecmp.cmp(earlier, file, shallow=False)):
            raise _not_empty(earlier.parent)
        sign = 1 if self.metric.higher_is_better else -1
        self._drawn.append((-math.inf if score is None else sign * score, file))

    def _scan(self, pair: Pair, label: Volume) -> Volume | None:
        """The scan of a pair, if the labels were given as a data set, and it lies on the grid of its label."""
        if pair.truth.path == pair.truth.label:
            return None
        try:
            scan = self.readers.read_scan(pair.truth, None)
        except DataError:
            return None
        alike = scan.shape[:3] == label.shape[:3] and np.allclose(scan.affine, label.affine, atol=1e-3)
        return scan if alike else None

    def rank(self) -> list[Path]:
        """Put a number before each name, 1 for the worst; scans without a score come first."""
        order = sorted(self._drawn)
        digits = max(3, len(str(len(order))))
        return [
            file.rename(file.with_name(f"{i:0{digits}d}-{file.name}")) for i, (_, file) in enumerate(order, start=1)
        ]
