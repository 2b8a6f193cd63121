"""Fill the cache with the slices that a pre-training would make, in this process or on a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.decoded import Decoded
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.levels import sums_of
from ssmtl_toolkit.data.pieces import find_piece
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.store import Skipped, unusable
from ssmtl_toolkit.data.users import use_cache
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.pretraining.pretrain import chosen_scans
from ssmtl_toolkit.runtime.cluster import Cluster, Task, opened
from ssmtl_toolkit.runtime.on_worker import Ended
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers, measured, prepare, reading_of, waiting_for
from ssmtl_toolkit.specs import Scan


@dataclass(frozen=True)
class Prepared:
    """What the cache holds of the scans now.

    Attributes:
        cache: its folder.
        scans: how many scans can be used.
        made: how many of them were decoded and prepared now; the others were in the cache.
        failed: scans that cannot be used.
        skipped: scans that are not meant: copies, label maps, files that are no scans.
        slices: how many there are.
        bytes: what the slices take in the cache.
    """

    cache: Path
    scans: int
    made: int
    failed: tuple[Skipped, ...]
    skipped: tuple[Skipped, ...]
    slices: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        lists = {name: [item.to_json() for item in getattr(self, name)] for name in ("failed", "skipped")}
        return {**vars(self), "cache": str(self.cache), **lists}


def prepare_slices(config: ResolvedRun, cache: Path, progress: Progress, cluster: str | None = None) -> Prepared:
    """Make the slices of all scans that are not in the cache yet; a run with the same options then decodes none.

    Raises:
        DataError: no scan can be used, or they differ in their number of channels.
        InterruptedRunError: a signal has come; what was made is kept.
        SsmtlError: the cache cannot be written, or the cluster cannot be used.
    """
    cache = cache.absolute()
    scans = chosen_scans(config, cache, progress)
    reading = reading_of(config.slicing, cache, progress)
    made, failed = list[str](), tuple[Skipped, ...]()
    if cluster is None:
        slicing = measured(reading, scans, progress)
    else:
        with opened(cluster, progress) as workers:
            slicing, bad = _by_workers(workers, scans, reading, made, progress)
        failed, progress = tuple(bad.values()), _OnlyNotes(progress)
        if len(bad) == len(scans):
            raise unusable(failed, len(scans))
        scans = [scan for i, scan in enumerate(scans) if i not in bad]

    def read(scan: Scan) -> Volume:
        made.append(scan.name)
        return reading.decoded.scan(scan)

    usable = prepare(scans, slicing, cache, progress, skip_bad=True, read=read)
    return Prepared(
        cache,
        scans=len(usable.pieces),
        made=len({scan.name for scan in usable.scans} & set(made)),
        failed=(*failed, *usable.failed),
        skipped=tuple(item for item in usable.skipped if item not in usable.failed),
        slices=sum(piece.about.count for piece in usable.pieces),
        bytes=sum(piece.file.stat().st_size for piece in usable.pieces),
    )


def _by_workers(
    workers: Cluster, scans: Sequence[Scan], reading: Reading, made: list[str], progress: Progress
) -> tuple[Slicing, dict[int, Skipped]]:
    """Let workers make what is missing, and add its names to `made`. Returns how slices are made, and what failed."""
    bad: dict[int, Skipped] = {}
    meant = [i for i, scan in enumerate(scans) if not scan.unfit]

    def ended(number: int, end: Ended) -> None:
        name = scans[meant[number]].name
        if end.failed:
            bad[meant[number]] = Skipped(name, end.failed)
        else:
            fresh, digests = end.result
            made.extend([name] if fresh else [])
            reading.memo.add(digests)
        progress.prepared(name)

    def each(act: Callable[[Scan, Slicing, Path, Progress], Any], slicing: Slicing) -> None:
        progress.preparing(len(meant))
        tasks = [Task(scans[i].name, act, (scans[i], slicing, reading.cache)) for i in meant]
        try:
            workers.run(tasks, ended)
        finally:
            if problem := reading.memo.save():
                progress.note(problem)

    slicing = reading.slicing
    if slicing.normalise == "data":
        each(_measure, slicing)
        made.clear()
        slicing = measured(reading, [scan for i, scan in enumerate(scans) if i not in bad], progress)
        bad.clear()
    each(_make, slicing)
    return slicing, bad


class _OnlyNotes(Progress):
    """Passes notes on: what else there is to see was seen before."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def note(self, text: str) -> None:
        self._progress.note(text)


# On a worker: what a scan needs, whether it was made now, and what was found out about its files.

_Answer = tuple[bool, dict[str, list[Any]]]


def _measure(scan: Scan, slicing: Slicing, cache: Path, progress: Progress) -> _Answer:
    reading = _reading(slicing, cache, progress)
    sums_of(scan, reading)
    return True, reading.memo.take()


def _make(scan: Scan, slicing: Slicing, cache: Path, progress: Progress) -> _Answer:
    reading, made = _reading(slicing, cache, progress), list[Scan]()

    def read(scan: Scan) -> Volume:
        made.append(scan)
        return reading.decoded.scan(scan)

    find_piece(scan, reading.decoded.readers, slicing, cache, reading.memo, reading.waiting, read)
    return bool(made), reading.memo.take()


def _reading(slicing: Slicing, cache: Path, progress: Progress) -> Reading:
    waiting = waiting_for(progress)
    use_cache(cache, waiting)
    return Reading(
        Decoded(installed_readers(in_time=slicing.in_time), slicing.volume), slicing, cache, _memo(cache), waiting
    )


@functools.lru_cache(maxsize=1)
def _memo(cache: Path) -> DigestMemo:
    """The memo of this process, which is as large as there are scans."""
    return DigestMemo(cache / "digests.json")
