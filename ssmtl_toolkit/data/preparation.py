"""What a `PreparationSpec` returns: the slices as they are after it, and its way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.lattice import Lattice, Line
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.data.volume import Stack
from ssmtl_toolkit.errors import DataError

Undo = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From slices (S, C', H, W) in the values and channels after a preparation to those before it, pixel by pixel."""


@dataclass(frozen=True)
class Stage:
    """Slices after one preparation.

    Attributes:
        stack: they, with their spacing and affine.
        lattice: where their pixels lie among those before it; None: where they were.
        undo: the way back of their values; None: they stay as they are. What a window has clipped remains clipped.
    """

    stack: Stack
    lattice: Lattice | None = None
    undo: Undo | None = None

    @classmethod
    def of_values(cls, stack: Stack, slices: NDArray[Any], undo: Undo | None = None) -> Stage:
        """Other values (S, C', H, W) in the same places; there may be other channels."""
        return cls(replace(stack, slices=slices), None, undo)

    @classmethod
    def of_places(cls, stack: Stack, lattice: Lattice) -> Stage:
        """The pixels at these places; where there are none, the lowest value of the channel.

        Raises:
            DataError: they would take more than half of the memory, or are cropped or padded along an axis on which
                they are unevenly spaced.
        """
        positions = [_positions(*of) for of in zip(stack.positions, lattice.lines, strict=True)]
        samples, channels, height, width = (lattice.grid[0], stack.slices.shape[1], *lattice.grid[1:])
        try:
            check_memory((samples, channels, height, width), np.dtype(np.float32))
        except FileError as error:
            raise DataError(f"as {samples} slices of {height} x {width} pixels it {error}") from None
        spacing = tuple(mm * line.step for mm, line in zip(stack.spacing, lattice.lines, strict=True))
        return cls(
            replace(
                stack,
                slices=lattice.sample(stack.slices, lowest(stack.slices)),
                affine=stack.affine @ lattice.affine,
                spacing=(spacing[0], spacing[1], spacing[2]),
                positions=(positions[0], positions[1], positions[2]),
            ),
            lattice,
        )


def _positions(uneven: tuple[float, ...], line: Line) -> tuple[float, ...]:
    """Those of the samples of unevenly spaced voxels; empty if they are even."""
    if uneven and not line.voxels_at and line != Line.of(len(uneven)):
        raise DataError("its slices are unevenly spaced: --prepare resample comes before what crops, pads or fits them")
    return () if line.voxels_at else uneven


def lowest(slices: NDArray[Any]) -> NDArray[Any]:
    """The lowest value of each channel of slices (S, C, H, W): (C,)."""
    return np.asarray(slices.min(axis=(0, 2, 3)))
