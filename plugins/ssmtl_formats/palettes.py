"""How the values of PNG slices with palettes are read: decided once for all slices, so that a class has one value."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.text import printable

Colour = tuple[int, ...]
Palette = tuple[Colour, ...]  # by index


class Palettes:
    """The palettes of the slices of a scan.

    If one of them has a colour, used or not, the values of all slices are indices, so that a value does not depend on
    what else a slice shows. Otherwise they are gray levels.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._of = {file: palette for file in files if (palette := _palette(file))}
        self.indexed = any(len(set(colour)) > 1 for palette in self._of.values() for colour in palette)
        longest = max(self._of.values(), key=len, default=())
        self._alike = all(longest[: len(palette)] == palette for palette in self._of.values())
        self._colours: dict[int, Colour] = {}
        self._indices: dict[Colour, int] = {}
        self._gray: dict[Path, set[int]] = {}  # of slices without a palette

    def check(self, file: Path, plane: NDArray[Any]) -> None:
        """Make sure that indices mean the same in this slice as in those before it.

        Raises:
            FileError: an index has another colour, or a colour another index.
        """
        if not self.indexed:
            return
        used = {int(value) for value in np.unique(plane)}
        if file not in self._of:
            self._gray[file] = used
            return
        for index in sorted(used):
            colour = self._of[file][index] if index < len(self._of[file]) else ()
            known = self._colours.setdefault(index, colour)
            if not self._alike and (known != colour or self._indices.setdefault(colour, index) != index):
                raise FileError(
                    f"has slices with different palettes, so that an index is not the same class in all of them: "
                    f"{printable(file.name)} has {colour} at {index}; save all with one palette, or as gray"
                )

    def finish(self) -> list[str]:
        """Return notes on what was taken as values.

        Raises:
            FileError: slices without a palette have values that are not indices of the others.
        """
        for file, used in self._gray.items():
            if not used <= {0, *self._colours}:
                raise FileError(
                    f"has slices with a coloured palette, and others without one that have other values "
                    f"({printable(file.name)}); save all in the same way"
                )
        if self.indexed:
            return ["has a coloured palette, whose indices are taken as values"]
        if any(colour != (i, i, i) for palette in self._of.values() for i, colour in enumerate(palette)):
            return ["has a palette of grays, which are taken as values instead of their indices"]
        return []


def _palette(file: Path) -> Palette:
    """Return the palette of a PNG file, () if it has none; damage is left to the decoder to report."""
    damage = contextlib.suppress(SyntaxError, OSError, ValueError, EOFError, Image.DecompressionBombError)
    with damage, Image.open(file, formats=["PNG"]) as image:
        if image.mode == "P" and image.palette:
            flat = bytes(image.palette.palette)
            return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
    return ()
