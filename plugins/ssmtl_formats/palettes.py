"""How the values of pictures with palettes are read: decided once for all slices, so that a class has one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_formats.decoding import Page, palette_of
from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.text import printable

Colour = tuple[int, ...]
Palette = tuple[Colour, ...]  # by index


class Palettes:
    """The palettes of the slices of a scan.

    If one of them has a colour, used or not, the values of all slices are indices, so that a value does not depend on
    what else a slice shows. Otherwise they are gray levels.
    """

    def __init__(self, pages: Sequence[Page]) -> None:
        self._of = {page: palette for page in pages if (palette := palette_of(page))}
        self.indexed = any(len(set(colour)) > 1 for palette in self._of.values() for colour in palette)
        longest = max(self._of.values(), key=len, default=())
        self._alike = all(longest[: len(palette)] == palette for palette in self._of.values())
        self._colours: dict[int, Colour] = {}
        self._indices: dict[Colour, int] = {}
        self._gray: dict[Page, set[int]] = {}  # of slices without a palette

    def check(self, page: Page, plane: NDArray[Any]) -> None:
        """Make sure that indices mean the same in this slice as in those before it.

        Raises:
            FileError: an index has another colour, or a colour another index.
        """
        if not self.indexed:
            return
        used = {int(value) for value in np.unique(plane)}
        if page not in self._of:
            self._gray[page] = used
            return
        for index in sorted(used):
            colour = self._of[page][index] if index < len(self._of[page]) else ()
            known = self._colours.setdefault(index, colour)
            if not self._alike and (known != colour or self._indices.setdefault(colour, index) != index):
                raise FileError(
                    f"has slices with different palettes, so that an index is not the same class in all of them: "
                    f"{printable(str(page))} has {colour} at {index}; save all with one palette, or as gray"
                )

    def finish(self) -> list[str]:
        """Return notes on what was taken as values.

        Raises:
            FileError: slices without a palette have values that are not indices of the others.
        """
        for page, used in self._gray.items():
            if not used <= {0, *self._colours}:
                raise FileError(
                    f"has slices with a coloured palette, and others without one that have other values "
                    f"({printable(str(page))}); save all in the same way"
                )
        if self.indexed:
            return ["has a coloured palette, whose indices are taken as values"]
        if any(colour != (i, i, i) for palette in self._of.values() for i, colour in enumerate(palette)):
            return ["has a palette of grays, which are taken as values instead of their indices"]
        return []
