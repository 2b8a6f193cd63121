"""Which slices a step sees: a pure function of seed, step, rank and world size, with no state to save."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.seeds import Stream, step_seed

Rows = NDArray[np.int64]
_PART = 1 << 16
BLOCK = 64
"""Of how many scans slices are shuffled among each other, in an order of blocks."""
_SCANS, _EPOCH, _COMPANION = 0, 1, 2  # streams of random numbers
_TURNS = 256  # batches whose patients are found at once
_CHANCE, _PLACE = 1, 2  # and of those by which patients take turns


@dataclass(frozen=True)
class Extent:
    """Where one scan's slices lie in the store, the mm between them, and whose they are: equal numbers, one patient.

    In time the slices are sequences of `frames` each, one after the other, with ms between them (0: unknown).
    """

    start: int
    count: int
    spacing: float
    patient: int
    frames: int | None = None

    @property
    def length(self) -> int:
        """How many slices a sequence has."""
        return self.frames or self.count

    @property
    def sequences(self) -> range:
        """Where the sequences begin."""
        return range(self.start, self.start + self.count, self.length)


@dataclass(frozen=True)
class Candidates:
    """For one companion, the offsets to draw from, per scan: (scans, C), padded with 0, `number` of them real."""

    offsets: Rows
    number: Rows

    def present(self, anchors: Rows, scan: Rows, extents: Sequence[Rows]) -> tuple[Rows, NDArray[np.bool_]]:
        """Return the candidate rows (N, C) and which of them lie inside the anchor's own sequence.

        `extents`: where the scans begin, and how many slices their sequences have.
        """
        rows = anchors[:, None] + self.offsets[scan]
        real = np.arange(self.offsets.shape[1]) < self.number[scan][:, None]
        index, length = _in_sequence(anchors, scan, extents)
        first = (anchors - index)[:, None]
        inside = (rows >= first) & (rows < first + length[:, None])
        return rows, real & inside


def _in_sequence(rows: Rows, scan: Rows, extents: Sequence[Rows]) -> tuple[Rows, Rows]:
    """For rows of these scans their index in their sequence, and its length."""
    start, length = (each[scan] for each in extents)
    return (rows - start) % length, length


@dataclass(frozen=True)
class Places:
    """For some slices their index in their sequence, its length, mm (ms) between its slices, its patient: (N,) each."""

    index: Rows
    count: Rows
    spacing: NDArray[np.float32]
    patient: Rows


@dataclass(frozen=True)
class Draw:
    """The rows of one batch: anchors (N,), and for each companion its rows (M,) and the anchors they belong to."""

    anchors: Rows
    companions: tuple[tuple[Rows, Rows], ...]


class Plan:
    """Which slices can be anchors and what goes with them.

    Attributes:
        anchors: rows that give at least one task something to do.
        columns: label -> companion name -> which of `candidates`; equal companions of several tasks are one.
        pairs: per candidate, how many anchors have it.
        idle: indices of the scans none of whose slices is an anchor.
    """

    def __init__(self, extents: Sequence[Extent], wanted: Sequence[Mapping[str, Mapping[str, Sequence[int]]]]) -> None:
        """`wanted` holds for each scan: label -> companion name -> candidate offsets (a task may have none)."""
        self._extents = (
            np.array([extent.start for extent in extents], dtype=np.int64),
            np.array([extent.length for extent in extents], dtype=np.int64),
        )
        self._spacing = np.array([extent.spacing for extent in extents], dtype=np.float32)
        self._patient = np.array([extent.patient for extent in extents], dtype=np.int64)
        self._scan = np.repeat(np.arange(len(extents)), [extent.count for extent in extents])
        distinct: dict[tuple[tuple[int, ...], ...], int] = {}
        self.columns: dict[str, dict[str, int]] = {}
        for label, names in wanted[0].items():
            self.columns[label] = {}
            for name in names:
                offsets = tuple(tuple(scan[label][name]) for scan in wanted)
                self.columns[label][name] = distinct.setdefault(offsets, len(distinct))
        self.candidates = [_candidates(offsets) for offsets in distinct]
        rows = np.arange(len(self._scan))
        present = [self._has(candidates, rows) for candidates in self.candidates]
        self.pairs = [int(there.sum()) for there in present]
        alone = any(not names for names in self.columns.values())  # a task without companions takes every slice
        useful = np.ones(len(rows), dtype=bool) if alone else np.any([np.zeros(len(rows), bool), *present], axis=0)
        self.anchors: Rows = rows[useful]
        self.idle = sorted(set(range(len(extents))) - set(self._scan[useful].tolist()))

    def _has(self, candidates: Candidates, rows: Rows) -> NDArray[np.bool_]:
        """Which of `rows` have at least one candidate inside their sequence; by parts, to save memory."""
        parts = [rows[start : start + _PART] for start in range(0, len(rows), _PART)]
        return np.concatenate([candidates.present(p, self._scan[p], self._extents)[1].any(axis=1) for p in parts])

    def anchors_of(self, scans: Sequence[int]) -> Rows:
        """The anchors of these scans, given by their indices."""
        return self.anchors[np.isin(self._scan[self.anchors], np.asarray(scans, dtype=np.int64))]

    def scans_of_anchors(self) -> Rows:
        """For each anchor the number of its scan among those that have any."""
        return np.unique(self._scan[self.anchors], return_inverse=True)[1].astype(np.int64)

    def complete(self) -> Rows:
        """The anchors that have every companion that any task asks for."""
        return self.anchors[np.all([self._has(c, self.anchors) for c in self.candidates], axis=0)]

    def by_patient(self) -> list[Rows]:
        """The anchors of each patient who has any."""
        patient = self._patient[self._scan[self.anchors]]
        order = np.argsort(patient, kind="stable")
        return np.split(self.anchors[order], np.flatnonzero(np.diff(patient[order])) + 1)

    def places(self, rows: Rows) -> Places:
        """Where `rows` lie in their sequences."""
        scan = self._scan[rows]
        index, length = _in_sequence(rows, scan, self._extents)
        return Places(index, length, self._spacing[scan], self._patient[scan])

    def companions(self, anchors: Rows, key: tuple[int, int]) -> tuple[tuple[Rows, Rows], ...]:
        """Draw for each of `candidates` the companions of `anchors`, by the random numbers of `key`."""
        drawn = []
        for column, candidates in enumerate(self.candidates):
            rows, present = candidates.present(anchors, self._scan[anchors], self._extents)
            number = present.sum(axis=1)
            chosen = _random((*key, _COMPANION + column), len(anchors)) % np.maximum(number, 1).astype(np.uint64)
            rank = present.cumsum(axis=1) - 1
            place = ((rank == chosen.astype(np.int64)[:, None]) & present).argmax(axis=1)
            has = np.flatnonzero(number)
            drawn.append((rows[has, place[has]], has))
        return tuple(drawn)


class Sampler:
    """Goes through all anchors in a new order each epoch, a batch at a time, each rank its own part.

    Batches follow each other without regard to the end of an epoch, so every anchor is seen equally often. With
    `patients` each batch holds slices of so many patients (`Turns`), with `blocks` they are of `BLOCK` scans at a time.
    """

    def __init__(
        self,
        plan: Plan,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        patients: int | None = None,
        *,
        blocks: bool = False,
    ) -> None:
        self.plan, self.batch_size, self.seed, self.rank, self.world = plan, batch_size, seed, rank, world
        self.turns = Turns(plan.by_patient(), patients, batch_size, seed) if patients else None
        self.blocks = blocks
        self._order = lru_cache(maxsize=4)(partial(_in_blocks, plan.scans_of_anchors())) if blocks else _order
        self._drawing = threading.Lock()  # the next batch is drawn by another thread

    def draw(self, index: int) -> Draw:
        """The rows of this rank's batch number `index` (counted from 0 over the whole training)."""
        batch = index * self.world + self.rank
        first = batch * self.batch_size
        if self.turns is None:
            anchors = in_turn(self.plan.anchors, first, self.batch_size, self.seed, self._order)
        else:
            with self._drawing:
                anchors = self.turns.anchors(batch)
        return Draw(anchors, self.plan.companions(anchors, (self.seed, first)))


class Turns:
    """Batches with slices of a fixed number of different patients, of each as many as of the others, or one more.

    Each patient's slices come in an order of their own, new in each of the patient's epochs. With every batch a patient
    earns slices in proportion to those that there are of it; it is the turn of those who are owed most, give or take a
    share of a batch by chance, so that other patients meet each time. So a patient's slices are about as often seen as
    another's, unless they are more than a share of a batch can hold: then such a patient is in every batch.

    What a batch holds depends on its number alone, but is found by going through those before it.
    """

    def __init__(self, rows: Sequence[Rows], patients: int, batch_size: int, seed: int) -> None:
        """`rows` are the slices of each patient; there must be at least so many `patients`, and slices in a batch."""
        self.rows, self.batch_size = rows, batch_size
        self._seed = step_seed(seed, Stream.PATIENTS)
        self._seeds = [step_seed(seed, Stream.PATIENTS, patient) for patient in range(len(rows))]
        self._order = lru_cache(maxsize=2 * len(rows))(_shuffled)
        even, more = divmod(batch_size, patients)
        self._sizes = np.array([even + 1] * more + [even] * (patients - more), dtype=np.int64)
        shares, whole = batch_shares(np.array([len(one) for one in rows], dtype=np.int64), patients)
        self._earned, self._share, self._slice = batch_size * shares, batch_size * whole, patients * whole
        self._always = np.where(shares == whole, 1 << 62, 0)  # more than any patient is ever owed
        self._restart()

    def anchors(self, batch: int) -> Rows:
        """The slices of this batch, counted from 0."""
        chosen, first = self._turn(batch)
        parts = [
            in_turn(self.rows[patient], int(start), int(size), self._seeds[patient], self._order)
            for patient, start, size in zip(chosen, first, self._sizes, strict=True)
        ]
        order = np.argsort(_random((self._seed, batch, _PLACE), self.batch_size), kind="stable")
        return np.concatenate(parts)[order]

    def _turn(self, batch: int) -> tuple[Rows, Rows]:
        """Whose turn it is in this batch, and how many slices of each have come before."""
        part, index = divmod(batch, _TURNS)
        if part < self._part:
            self._restart()
        while self._part < part:
            self._next_part()
        return self._chosen[index], self._first[index]

    def _restart(self) -> None:
        self._part = -1
        self._owed, self._taken = np.zeros((2, len(self.rows)), dtype=np.int64)

    def _next_part(self) -> None:
        """Go through the next batches."""
        self._part += 1
        numbers = _random((self._seed, self._part, _CHANCE), _TURNS * len(self.rows)) % np.uint64(self._share)
        chance = numbers.astype(np.int64).reshape(_TURNS, -1)
        self._chosen, self._first = np.empty((2, _TURNS, len(self._sizes)), dtype=np.int64)
        for index in range(_TURNS):
            self._owed += self._earned
            due = self._owed + chance[index]
            chosen = np.argsort(-(due + self._always), kind="stable")[: len(self._sizes)]
            chosen = chosen[np.argsort(-due[chosen], kind="stable")]  # who is owed most gets a slice more
            self._chosen[index], self._first[index] = chosen, self._taken[chosen]
            self._owed[chosen] -= self._slice * self._sizes
            self._taken[chosen] += self._sizes


def batch_shares(counts: Rows, patients: int) -> tuple[Rows, int]:
    """In how many of `whole` batches each patient is, and `whole`; so many `patients` are in each.

    It is in proportion to the `counts` of their slices; who would have to be in more batches than there are is in all.
    """
    full = np.zeros(len(counts), dtype=bool)
    while True:
        places, whole = patients - int(full.sum()), int(counts[~full].sum())
        more = ~full & (counts * places > whole)
        if not more.any():
            return np.where(full, whole, counts * places), whole
        full |= more


class FixedSample:
    """Some anchors in batches of about equal size, the same whenever they are asked for.

    Attributes:
        batches: the anchors of each batch.
    """

    def __init__(self, plan: Plan, anchors: Rows, number: int, batch_size: int, seed: int) -> None:
        """Draw `number` of the anchors, at most `batch_size` for a batch."""
        self.plan, self.seed = plan, seed
        self.batches = np.array_split(in_turn(anchors, 0, number, seed), math.ceil(number / batch_size))

    def draw(self, index: int) -> Draw:
        """The rows of batch number `index`."""
        anchors = self.batches[index]
        return Draw(anchors, self.plan.companions(anchors, (self.seed, index)))


def _shuffled(seed: int, epoch: int, number: int) -> Rows:
    return np.argsort(_random((seed, epoch, _EPOCH), number), kind="stable")


_order = lru_cache(maxsize=4)(_shuffled)


def _in_blocks(scans: Rows, seed: int, epoch: int, number: int) -> Rows:
    """An order of the anchors, of these `scans`, in which all of one scan come soon after each other.

    The scans come in an order of their own, and each anchor's place is drawn evenly from its scan's up to `BLOCK` scans
    further on; behind the last scan is the first. So anchors next to each other are of about `BLOCK` scans, each scan
    comes in alone, and those of the first scans in a row are the only ones that are read a second time.
    """
    count = int(scans.max()) + 1
    place = np.argsort(_random((seed, epoch, _SCANS), count), kind="stable")
    further = _random((seed, epoch, _EPOCH), number) / 2.0**64
    return np.argsort((place[scans] + min(BLOCK, count) * further) % count, kind="stable")


def in_turn(rows: Rows, first: int, number: int, seed: int, order: Callable[[int, int, int], Rows] = _order) -> Rows:
    """The `number` rows behind the first `first`, where all `rows` come in a new order each epoch, without end."""
    epochs, places = np.divmod(np.arange(first, first + number), len(rows))
    drawn = np.empty(number, dtype=np.int64)
    for epoch in np.unique(epochs):
        now = epochs == epoch
        drawn[now] = rows[order(seed, int(epoch), len(rows))[places[now]]]
    return drawn


def _random(key: tuple[int, int, int], number: int) -> NDArray[np.uint64]:
    """`number` random 64-bit integers by counter (Philox): the same for the same key, everywhere."""
    seed, position, stream = key
    return np.random.Philox(key=seed, counter=[0, 0, position, stream]).random_raw(number)


def _candidates(offsets: tuple[tuple[int, ...], ...]) -> Candidates:
    padded = np.zeros((len(offsets), max(1, *map(len, offsets))), dtype=np.int64)
    for i, row in enumerate(offsets):
        padded[i, : len(row)] = row
    return Candidates(padded, np.array([len(row) for row in offsets], dtype=np.int64))
