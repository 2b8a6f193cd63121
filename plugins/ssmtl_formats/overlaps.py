"""One label map of segments that may overlap: where they do, the smaller one is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import FileError

Voxels = NDArray[np.integer[Any]]
"""Indices of voxels (I, J, K) in the order of `ravel`."""
_MOST = 1 << 16  # segments of one file


@dataclass(frozen=True)
class Part:
    """A segment: the value of its voxels, how many it has, and which they are, a piece at a time."""

    value: int
    size: int
    pieces: Callable[[], Iterable[Voxels]]


def painted(shape: Sequence[int], parts: Sequence[Part], notes: list[str]) -> NDArray[Any]:
    """Return a label map: the largest segment is painted first; of segments of one size the last one stays.

    Raises:
        FileError: it does not fit into memory.
    """
    kind = np.dtype(np.min_scalar_type(max((part.value for part in parts), default=0)))
    check_memory(shape, kind)
    array = np.zeros(math.prod(shape), kind)
    covered = 0
    for part in sorted(parts, key=lambda part: -part.size):
        for voxels in part.pieces():
            before = array[voxels]
            covered += int(np.count_nonzero((before != 0) & (before != part.value)))
            array[voxels] = part.value
    if covered:
        notes.append(f"{covered} voxels belong to several segments; they count for the smallest of these")
    return array.reshape(shape)


def values_of(numbers: Sequence[int]) -> list[int]:
    """The value of each segment: its own number, if these are positive and different; else 1, 2, 3 … in order.

    Raises:
        FileError: there are too many.
    """
    if len(numbers) > _MOST:
        raise FileError(f"has {len(numbers)} segments, more than {_MOST}; export those that are needed")
    fit = len(set(numbers)) == len(numbers) and all(0 < number < 1 << 31 for number in numbers)
    return list(numbers) if fit else list(range(1, len(numbers) + 1))


def named(names: Sequence[str], values: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The values by name; segments of one name are one class."""
    classes: dict[str, tuple[int, ...]] = {}
    for name, value in zip(names, values, strict=True):
        classes[name] = (*classes.get(name, ()), value)
    return classes
