"""Polygons filled by the even-odd rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_EDGES = 1 << 12  # at a time, so that a polygon of many long edges takes little memory


def filled(polygons: Sequence[NDArray[np.float64]], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return the pixels (rows, columns) whose centres lie within an odd number of polygons.

    Args:
        polygons: corners (N, 2) each, as row and column; the centre of pixel (0, 0) is at (0, 0). The last corner is
            joined to the first one.
        shape: the number of rows and columns.

    Along each row the centre is inside between the first and the second crossing of an edge, the third and the fourth,
    and so on (Foley et al., Computer Graphics, 1990, section 3.6).
    """
    turns = np.zeros((shape[0], shape[1] + 1), bool)
    for polygon in polygons:
        for begin, end in _edges(polygon):
            rows, crossings = _crossings(begin, end, shape[0])
            columns = np.clip(np.ceil(crossings), 0, shape[1]).astype(np.intp)
            np.logical_xor.at(turns, (rows, columns), True)
    return np.asarray(np.logical_xor.accumulate(turns[:, :-1], axis=1))


def _edges(polygon: NDArray[np.float64]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    following = np.roll(polygon, -1, axis=0)
    for at in range(0, len(polygon), _EDGES):
        yield polygon[at : at + _EDGES], following[at : at + _EDGES]


def _crossings(
    begin: NDArray[np.float64], end: NDArray[np.float64], height: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which rows the edges cross, and where; an edge holds its lower end, not its upper one."""
    low, high = np.minimum(begin[:, 0], end[:, 0]), np.maximum(begin[:, 0], end[:, 0])
    first, last = (np.clip(np.ceil(side), 0, height).astype(np.intp) for side in (low, high))
    counts = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(begin)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    (row, column), (row_end, column_end) = begin[edge].T, end[edge].T
    return rows, column + (rows - row) / (row_end - row) * (column_end - column)
