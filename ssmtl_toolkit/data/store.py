"""All slices of all scans, in memory or on disk; each scan is decoded once, ever, and kept in a cache."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.data.files import DigestMemo, Waiting, remove_halves
from ssmtl_toolkit.data.in_memory import bytes_of, for_each, in_memory
from ssmtl_toolkit.data.memory import free_memory, only_new_garbage
from ssmtl_toolkit.data.on_disk import OnDisk, on_disk
from ssmtl_toolkit.data.patches import Patches
from ssmtl_toolkit.data.pieces import Piece, find_piece
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.sampling import Extent
from ssmtl_toolkit.data.sealed import HALVES, LOCK, ROOMS
from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted, listed, printable, shortened

Placement = Literal["auto", "disk", "ram", "gpu"]
_PART_OF_MEMORY = 0.5  # what the store may take of the memory that is free

_SHOWN = 4  # scans, and slices of each, that are named


@dataclass(frozen=True)
class StoredScan:
    """Where one scan's slices lie in the store: rows `start` to `start + count`.

    `digests` are those of its files, and of its voxels, by which it is known however it was compressed or saved.
    """

    scan: Scan
    key: str
    digests: tuple[str, ...]
    start: int
    count: int
    spacing: float
    axis: str
    blank: int
    notes: tuple[str, ...]
    sides: tuple[int, int] | None = None  # rows and columns, if patches of them are used
    frames: int | None = None  # how many slices each sequence in time has; None: they are one sequence


@dataclass(frozen=True)
class Skipped:
    """A scan that is not used, and why."""

    name: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Write as it stands in summaries."""
        return {"scan": self.name, "reason": self.reason}


@dataclass(frozen=True)
class SliceStore:
    """Slices (total, C, size, size) float16 on disk, in RAM or on a GPU, and the scans they are of."""

    slices: Tensor | OnDisk
    scans: tuple[StoredScan, ...]
    skipped: tuple[Skipped, ...]
    reach: int = 0  # how many neighbours on either side each slice shows beside itself
    patches: Patches | None = None  # where the patches lie that the network sees; None: it sees whole slices

    @property
    def channels(self) -> int:
        """How many channels every slice has."""
        return self.slices.shape[1]

    @property
    def unit(self) -> str:
        """Of the distances between slices: mm, or in time ms."""
        return "mm" if self.scans[0].frames is None else "ms"

    @property
    def cuts(self) -> list[tuple[str, float]]:
        """Of each scan the axis that it is cut along, and the distance between its slices."""
        return [(scan.axis, scan.spacing) for scan in self.scans]

    @property
    def fingerprint(self) -> str:
        """A digest of the scans' contents, their order and how they were prepared; no names, no paths."""
        return hashlib.sha256("\n".join(scan.key for scan in self.scans).encode()).hexdigest()

    @property
    def extents(self) -> list[Extent]:
        """What the sampler must know of each scan; patients are numbered in the order of their first scans."""
        numbers: dict[str, int] = {}
        return [
            Extent(
                scan.start,
                scan.count,
                scan.spacing,
                numbers.setdefault(scan.scan.patient, len(numbers)),
                scan.frames,
            )
            for scan in self.scans
        ]

    def gather(
        self, rows: Tensor, device: torch.device, places: Tensor | None = None, read: Tensor | None = None
    ) -> Tensor:
        """Copy slices `rows` (N,), or a patch of each, to `device` as images (N, C, size, size) float32.

        `read` are these slices, where they were read before.
        """
        if read is None:
            picked = self.picked(self.slices, rows, places)
        else:
            picked = self.patches.of(rows).cut(read, torch.arange(len(rows)), places) if self.patches else read
        return sent(picked, device).float()

    def places(self, number: int) -> Tensor | None:
        """Draw where patches of so many slices lie, (number, 2), by torch's global generator; None: there are none."""
        return torch.rand(number, 2) if self.patches else None

    def picked(self, slices: Tensor | OnDisk, rows: Tensor, places: Tensor | None = None) -> Tensor:
        """Of `slices`, or anything (total, …, H, W) that goes with them, the `rows` (N,), or a patch of each.

        `places` (N, 2): where the patches lie; None: in the middle.
        """
        if self.patches:
            return self.patches.cut(slices, rows, places)
        return slices.index_select(0, rows.to(slices.device))

    def to(self, device: torch.device) -> SliceStore:
        """Move the slices to the memory of a device."""
        return replace(self, slices=self.slices.to(device))


@dataclass(frozen=True)
class Usable:
    """The scans that can be used, read and in the cache, in order; `open` makes stores of them.

    Attributes:
        skipped: the others, and why.
        failed: those of them that could not be read or prepared.
    """

    pieces: tuple[Piece, ...]
    skipped: tuple[Skipped, ...]
    slicing: Slicing
    memo: DigestMemo
    waiting: Waiting
    failed: tuple[Skipped, ...] = ()

    @property
    def scans(self) -> list[Scan]:
        """What is usable."""
        return [piece.scan for piece in self.pieces]

    def open(
        self, chosen: Collection[int] | None = None, *, placement: Placement = "auto", copies: int = 1
    ) -> SliceStore:
        """Open the slices of the scans with these indices, by default all; `skipped` goes with every store.

        Args:
            chosen: indices into `scans`.
            placement: `disk` leaves them in the cache, `ram` copies; `auto` and `gpu` use RAM when it fits. The move to
                the GPU is `SliceStore.to`.
            copies: how many processes on this machine will hold the store.
        """
        pieces = [piece for i, piece in enumerate(self.pieces) if chosen is None or i in chosen]
        with only_new_garbage():
            return _open(pieces, self.skipped, self.slicing, placement, copies, self.memo, self.waiting)


def build_store(
    scans: Sequence[Scan],
    readers: Readers,
    slicing: Slicing,
    cache: Path,
    *,
    skip_bad: bool = False,
    placement: Placement = "auto",
    copies: int = 1,
    label_maps: Literal["skip", "note"] = "skip",
    on_scan: Callable[[str], None] = lambda name: None,
    waiting: Waiting = Waiting(),  # noqa: B008 - frozen
) -> SliceStore:
    """Read, prepare and cache what is not in the cache yet, and open all of it: `prepare_scans`, then `Usable.open`."""
    usable = prepare_scans(
        scans,
        readers,
        slicing,
        cache,
        skip_bad=skip_bad,
        label_maps=label_maps,
        on_scan=on_scan,
        waiting=waiting,
    )
    return usable.open(placement=placement, copies=copies)


def prepare_scans(
    scans: Sequence[Scan],
    readers: Readers,
    slicing: Slicing,
    cache: Path,
    *,
    skip_bad: bool = False,
    label_maps: Literal["skip", "note"] = "skip",
    on_scan: Callable[[str], None] = lambda name: None,
    waiting: Waiting = Waiting(),  # noqa: B008 - frozen
    read: Callable[[Scan], Volume] | None = None,
) -> Usable:
    """Read, prepare and cache what is not in the cache yet, in parallel.

    Args:
        scans: what to read, in order.
        readers: which readers may read it.
        slicing: how slices are made.
        cache: folder for the prepared slices; safe to delete when no run uses it.
        skip_bad: continue without scans that cannot be read, instead of refusing to start.
        label_maps: what becomes of a scan that looks like a label map, unless it was named by itself.
        on_scan: called with a scan's name when it is done, from one thread.
        waiting: asked while locks are waited for, and given notes on what was damaged in the cache.
        read: reads a scan; by default `readers` do.

    Raises:
        DataError: scans cannot be read (all of them are named), none is left, or they differ in their number of
            channels.
    """
    unfit = [Skipped(scan.name, scan.unfit) for scan in scans if scan.unfit]
    scans = [scan for scan in scans if not scan.unfit]
    pieces: dict[int, Piece] = {}
    _remove_halves(cache)

    def find(i: int) -> None:
        pieces[i] = find_piece(scans[i], readers, slicing, cache, memo, waiting, read)

    with only_new_garbage():
        memo = DigestMemo(cache / "digests.json")
        bad = try_each(scans, find, on_scan)
    if problem := memo.save():
        waiting.note(problem)
    if bad and not skip_bad:
        raise unusable([bad[i] for i in sorted(bad)], len(scans))
    kept, same = _without_copies([pieces[i] for i in sorted(pieces)])
    kept, labels = _without_label_maps(kept, label_maps, waiting)
    failed = tuple(bad[i] for i in sorted(bad))
    skipped = (*unfit, *failed, *same, *labels)
    if not kept:
        raise DataError("\n".join(["no scan can be used:", *shortened((item.reason for item in skipped), 10)]))
    _check_channels(kept)
    return Usable(tuple(kept), skipped, slicing, memo, waiting, failed)


def try_each(scans: Sequence[Scan], act: Callable[[int], None], on_scan: Callable[[str], None]) -> dict[int, Skipped]:
    """Do something with every scan, given its number, in parallel. Returns by their numbers those that it fails for.

    `on_scan` is called with a scan's name when it is done, from this thread; what it raises ends all.
    """
    bad: dict[int, Skipped] = {}

    def done(i: int, error: BaseException | None) -> None:
        if isinstance(error, DataError):
            bad[i] = Skipped(scans[i].name, str(error))
        elif error:
            raise error
        on_scan(scans[i].name)

    for_each(len(scans), act, done)
    return bad


def _remove_halves(cache: Path) -> None:
    """Remove what builds that were killed have left behind, except where another process is writing."""
    halves = {half.parent for room in ROOMS for name in HALVES for half in cache.glob(f"{room}/*/{name}")}
    for folder in halves:
        with contextlib.suppress(OSError, Timeout), FileLock(folder / LOCK, blocking=False):
            remove_halves(folder, *HALVES)


def unusable(bad: Sequence[Skipped], total: int, what: str = "scans") -> DataError:
    """The error that says which of `total` scans, called `what`, cannot be used, where --skip-bad is not given."""
    reasons = shortened((item.reason for item in bad), 20)
    head, hint = f"{len(bad)} of {total} {what} cannot be used:", "fix them, or continue without them: --skip-bad"
    return DataError("\n".join([head, *reasons, hint]))


def _without_copies(pieces: Iterable[Piece]) -> tuple[list[Piece], list[Skipped]]:
    """Leave out scans with the same voxels as an earlier one: links, copies, and what was compressed or saved again."""
    first: dict[str, Piece] = {}
    same = []
    for piece in pieces:
        there = first.setdefault(piece.about.scan or piece.about.voxels, piece)
        if there is not piece:
            same.append(
                Skipped(
                    piece.scan.name,
                    f"{printable(piece.scan.path)}: has the same voxels as {printable(there.scan.path)}",
                )
            )
    return list(first.values()), same


def _without_label_maps(
    pieces: Sequence[Piece], label_maps: Literal["skip", "note"], waiting: Waiting
) -> tuple[list[Piece], list[Skipped]]:
    """Leave out, or only tell, what looks like a label map; what the user has named by itself stays."""
    kept, found = [], []
    for piece in pieces:
        reason = f"{printable(piece.scan.path)}: looks like a label map: {piece.about.like_labels}"
        if piece.about.like_labels and label_maps == "skip" and not piece.scan.named:
            found.append(Skipped(piece.scan.name, f"{reason}; list it in a manifest (.csv) if it is a scan"))
            continue
        kept.append(piece)
        if piece.about.like_labels:
            waiting.note(f"{reason}, not like a scan")
    return kept, found


def _check_channels(pieces: Sequence[Piece]) -> None:
    """Refuse scans of which one network could not take all."""
    first = pieces[0]
    for piece in pieces:
        if piece.about.channels != first.about.channels:
            raise DataError(
                f"{printable(piece.scan.path)}: has {counted(piece.about.channels, 'channel')}, "
                f"{printable(first.scan.path)} has {first.about.channels}; all scans of a training have the same "
                f"channels: complete one of them, or leave it out"
            )


def _open(
    pieces: Sequence[Piece],
    skipped: tuple[Skipped, ...],
    slicing: Slicing,
    placement: Placement,
    copies: int,
    memo: DigestMemo,
    waiting: Waiting,
) -> SliceStore:
    total = sum(piece.about.count for piece in pieces)
    sides = [piece.about.sides or (slicing.size, slicing.size) for piece in pieces]
    height, width = (max(lengths) for lengths in zip(*sides, strict=True))
    shape = (total, pieces[0].about.channels, height, width)
    fits = copies * bytes_of(shape) <= _PART_OF_MEMORY * free_memory()
    if placement == "disk" or not fits:
        slices: Tensor | OnDisk = on_disk(pieces, shape, memo, waiting)
    else:
        slices = in_memory(pieces, shape, waiting)
    scans, start = [], 0
    for piece in pieces:
        scans.append(_stored(piece, start))
        start += piece.about.count
    every = torch.tensor(sides).repeat_interleave(torch.tensor([piece.about.count for piece in pieces]), dim=0)
    patches = Patches(slicing.size, every) if slicing.patches else None
    return SliceStore(slices, tuple(scans), skipped, slicing.reach, patches)


def _stored(piece: Piece, start: int) -> StoredScan:
    about = piece.about
    digests = (*piece.digests, *([about.scan] if about.scan else []))
    place = (piece.scan, piece.key, digests, start, about.count)
    return StoredScan(*place, about.spacing, about.axis, about.blank, about.notes, about.sides, about.frames)


def slices_told(scans: Sequence[StoredScan], rows: NDArray[Any]) -> str:
    """Which slices of which scans these rows of a store are: `a.nii.gz (slices 3, 7)`."""
    starts = np.array([scan.start for scan in scans])
    place = np.searchsorted(starts, np.unique(rows), side="right") - 1
    told = []
    for i in np.unique(place):
        slices = [str(row - starts[i]) for row in np.unique(rows)[place == i]]
        told.append(f"{printable(scans[i].scan.name)} (slices {listed(slices, _SHOWN)})")
    return listed(told, _SHOWN)
