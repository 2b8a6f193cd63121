"""Which of many slices to label: of each group of similar ones the most typical, at most so many of a patient."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

from ssmtl_toolkit.data.seeds import step_seed

Rows = NDArray[np.int64]

_STARTS, _TURNS = 5, 100  # of k-means: the best of so many starts, each with at most so many updates
_NEIGHBOURS = 20  # by whose mean distance a slice is typical
_BLOCK = 512  # slices whose distances are computed at once


@dataclass(frozen=True)
class Typical:
    """A slice that stands for others.

    Attributes:
        row: the slice.
        slices, patients: how many are in its group, itself included.
    """

    row: int
    slices: int
    patients: int


def typical_slices(
    features: NDArray[Any],
    patients: Rows,
    labelled: NDArray[np.bool_],
    number: int,
    most: int | None = None,
    seed: int = 0,
) -> list[Typical]:
    """Choose slices to label, after TypiClust (Hacohen et al., ICML 2022).

    k-means parts the slices into as many groups as slices are wanted or labelled. Groups without a labelled slice come
    first, the largest first; of each the slice is taken whose mean distance to its nearest neighbours is least. Slices
    of its own patient are no neighbours, for slices beside each other are always alike.

    Args:
        features: (n, d), standardised here.
        patients: (n,), equal numbers for one patient.
        labelled: (n,), which slices have a label already: they are not chosen.
        number: how many to choose; fewer where there are no more.
        most: how many of a patient, at most.
        seed: of the starts of k-means.

    Returns:
        The chosen slices, those that stand for most others first.
    """
    spread = features.std(axis=0, dtype=np.float64)
    standard = (features - features.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1.0)
    group = k_means(standard, min(number + int(labelled.sum()), len(standard)), seed)
    groups = [np.flatnonzero(group == index) for index in np.unique(group)]
    groups.sort(key=lambda rows: (bool(labelled[rows].any()), -len(rows), int(rows[0])))
    ranked = [[int(row) for row in _ranked(standard, patients, rows) if not labelled[row]] for rows in groups]
    taken: Counter[int] = Counter()

    def allowed(rows: Sequence[int]) -> list[int]:
        return [row for row in rows if most is None or taken[int(patients[row])] < most]

    chosen: list[Typical] = []
    while len(chosen) < number and any(ranked := [allowed(rows) for rows in ranked]):
        for i, rows in enumerate(groups):
            if len(chosen) < number and (left := allowed(ranked[i])):
                chosen.append(Typical(left[0], len(rows), len(np.unique(patients[rows]))))
                ranked[i] = left[1:]
                taken[int(patients[left[0]])] += 1
    return chosen


def k_means(rows: NDArray[np.float64], groups: int, seed: int) -> NDArray[np.int32]:
    """The group (n,) of each row (n, d): the best of several starts of k-means++."""
    best, least = np.zeros(len(rows), np.int32), np.inf
    for start in range(_STARTS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # equal rows leave groups empty, which does no harm
            rng = np.random.default_rng(step_seed(seed, start))
            centres, group = kmeans2(rows, groups, iter=_TURNS, minit="++", rng=rng)
        distance = float(np.square(rows - centres[group]).sum())
        if distance < least:
            best, least = group, distance
    return best


def _ranked(features: NDArray[np.float64], patients: Rows, rows: Rows) -> Rows:
    """The rows of one group, the most typical first; of equal ones the first.

    Where all are of one patient, its own slices are the neighbours.
    """
    alone = len(np.unique(patients[rows])) == 1
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        to_all = cdist(features[part], features[rows])
        own = part[:, None] == rows[None] if alone else patients[part][:, None] == patients[rows][None]
        nearest = np.sort(np.where(own, np.inf, to_all), axis=1)[:, :_NEIGHBOURS]
        number = np.isfinite(nearest).sum(axis=1)
        distances[start : start + _BLOCK] = np.where(np.isfinite(nearest), nearest, 0).sum(axis=1) / np.maximum(
            number, 1
        )
    return rows[np.argsort(distances, kind="stable")]
