"""Which scans and slices each repetition trains on: given by a split, or drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.seeds import Stream
from ssmtl_toolkit.data.split import Slices, choose
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.downstream.targets import SliceContents
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.specs import Scan


def draw_scans(config: ResolvedFinetune, scans: Sequence[Scan], seed: int) -> list[Scan]:
    """The training scans of one repetition."""
    return choose(config.train_scans, scans, seed, Stream.SCANS)


def draw_slices(
    config: ResolvedFinetune, scans: Sequence[Scan], contents: Mapping[str, SliceContents], seed: int
) -> dict[str, tuple[int, ...]]:
    """The training slices of one repetition, by scan.

    Raises:
        DataError: there is no slice to draw.
    """
    drawn = {}
    for i, scan in enumerate(scans):
        among = contents[scan.name].slices(config.drawn_from)
        drawn[scan.name] = tuple(choose(config.slices_per_scan, among, seed, Stream.SLICES, i))
    if not any(drawn.values()):
        annotated = any(contents[scan.name].annotated.any() for scan in scans)
        found = f"has a slice to draw ({config.drawn_from})" if annotated else "has an annotated slice"
        todo = "choose other --classes, more --train-scans or --slices any"
        if not annotated and isinstance(config.volume, int):
            found += f" in volume {config.volume}"
            todo = "choose a --volume that is labelled, or say --empty-frames background"
        raise DataError(f"none of the {len(scans)} training scans of seed {seed} {found}; {todo}")
    return drawn


def given_scans(given: Sequence[Slices], scans: Sequence[Scan], file: str) -> list[list[Scan]]:
    """The training scans of every repetition whose slices a split gives.

    Raises:
        DataError: they belong to a scan that is not there.
    """
    known = {scan.name: scan for scan in scans}
    if unknown := [name for slices in given for name in slices if name not in known]:
        raise DataError(
            f"{file}: its slices belong to {unknown[0]!r}, which is not a training scan here; check --split"
        )
    return [[known[name] for name in slices] for slices in given]


def given_slices(
    given: Sequence[Slices], contents: Mapping[str, SliceContents], skipped: set[str], file: str
) -> list[Slices]:
    """The same slices without those of skipped scans.

    Raises:
        DataError: a slice is outside of its scan, or not annotated.
    """
    kept = [{name: rows for name, rows in slices.items() if name not in skipped} for slices in given]
    for slices in kept:
        for name, rows in slices.items():
            _check_rows(name, rows, contents, file)
    return list(kept)


def _check_rows(name: str, rows: Sequence[int], contents: Mapping[str, SliceContents], file: str) -> None:
    if name not in contents:
        raise DataError(f"{file}: its slices belong to {name!r}, which is not a training scan here")
    count = len(contents[name].annotated)
    for row in rows:
        if not 0 <= row < count:
            raise DataError(f"{file}: slice {row} of {name!r} does not exist, it has 0 to {count - 1}")
        if not contents[name].annotated[row]:
            raise DataError(f"{file}: slice {row} of {name!r} is not annotated; omit it")


def store_rows(store: SliceStore, slices: Mapping[str, Sequence[int]]) -> NDArray[np.int64]:
    """Where slices lie in the store."""
    start = {stored.scan.name: stored.start for stored in store.scans}
    missing = [name for name in slices if name not in start]
    if missing:
        raise SsmtlError(f"{missing[0]!r} is not among the prepared scans")
    return np.array([start[name] + row for name, rows in slices.items() for row in rows], dtype=np.int64)
