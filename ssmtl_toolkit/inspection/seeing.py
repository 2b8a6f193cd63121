"""Goes through the scans of a data set: their headers, those of their label maps, and the voxels when asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import nibabel as nib

from ssmtl_toolkit.data.grid import check_grid, turned
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import Cut, Slicing
from ssmtl_toolkit.data.volume import Header, Stack
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.inspection.looking import Look, look_at
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

_WORKERS = 8
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Seen:
    """A scan, and what was seen of it.

    Attributes:
        header: what its files say; None if they cannot be read, and `problem` says why.
        label_problem: why its label map cannot be used with it, "" if it can or there is none.
        look: what its voxels are like, if they were read.
        problem: why its header or its voxels cannot be read, or cannot be cut.
        axis, grid, spacing, frames: how it is cut, as in `Stack`; the axis may be time.
    """

    scan: Scan
    header: Header | None = None
    label_problem: str = ""
    look: Look | None = None
    problem: str = ""
    axis: str = ""
    grid: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    frames: int | None = None

    @property
    def is_label_map(self) -> bool:
        """Whether a run would skip it because its voxels look like labels."""
        return bool(self.look and self.look.like_labels and not self.look.one_value and not self.scan.named)

    @cached_property
    def orientation(self) -> str:
        """Where the axes of the file lead, such as RAS; "" if unknown."""
        return "" if self.header is None else "".join(c or "?" for c in nib.aff2axcodes(self.header.affine))


class Seeing:
    """How scans are looked at: by which readers, cut how, interrupted by `check`."""

    def __init__(self, readers: Readers, slicing: Slicing, check: Callable[[], None] = lambda: None) -> None:
        self.readers, self.slicing, self.check = readers, slicing, check

    def headers(self, scans: Sequence[Scan]) -> list[Seen]:
        """Read the headers of scans and of their label maps."""
        return self._each(self._header, scans)

    def voxels(self, seen: Sequence[Seen], size: int) -> list[Seen]:
        """Read the voxels of those whose header can be read."""

        def read(one: Seen) -> Seen:
            return one if one.problem else self._look(one, size)

        return self._each(read, seen)

    def _each(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        workers = min(_WORKERS, 2 * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)

        def checked(item: T) -> R:
            self.check()
            return function(item)

        with ThreadPoolExecutor(max_workers=workers) as pool:
            try:
                return list(pool.map(checked, items))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _header(self, scan: Scan) -> Seen:
        try:
            header = self.readers.scan_header(scan)
            seen = self._cut(Seen(scan, header), self.slicing.axis)
        except DataError as error:
            return Seen(scan, problem=str(error))
        if header.volumes > 1 and self.slicing.volume is None:
            problem = (
                f"is 4-D with {header.volumes} volumes; give --volume i, 0 to {header.volumes - 1}, or --axis time"
            )
            return replace(seen, problem=f"{printable(scan.path)}: {problem}")
        return replace(seen, label_problem=self._label_problem(seen, header))

    def _cut(self, seen: Seen, axis: Cut) -> Seen:
        """Fill in how the scan is cut into slices."""
        assert seen.header is not None
        try:
            stack = Stack.of(seen.header.empty(), axis)
        except DataError as error:
            raise DataError(f"{printable(seen.scan.path)}: {error}") from error
        return replace(seen, axis=stack.along, grid=stack.grid, spacing=stack.spacing, frames=stack.frames)

    def _label_problem(self, seen: Seen, header: Header) -> str:
        try:
            for path in seen.scan.label_paths:
                self._check_label(path, header, printable(seen.scan.path.name))
        except DataError as error:
            return str(error)
        return ""

    def _check_label(self, path: Path, scan: Header, name: str) -> None:
        """Compare the grid of a label map with that of its scan, unless its format puts it onto that by itself."""
        if self.readers.label_rank(path) is not None or self.readers.classes(path):
            return
        label = self.readers.header(path)
        if label.placed or not scan.placed:
            check_grid(scan.empty(), turned(label.empty(), scan.empty()), printable(path), reference=name)

    def _look(self, seen: Seen, size: int) -> Seen:
        try:
            volume = self.readers.read_scan(seen.scan, self.slicing.volume)
            return replace(seen, look=look_at(volume, self.slicing.axis, size))
        except DataError as error:
            return replace(seen, problem=str(error))
