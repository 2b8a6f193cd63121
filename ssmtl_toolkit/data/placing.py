"""Label pictures beside DICOM slices: pictures do not say where they lie, so their slices are matched by file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError

_DIGITS = re.compile(r"(\d+)")


def placed_on(label: Volume, image: Volume, where: str) -> Volume:
    """Put a label map of pictures onto the grid of its scan, a picture for each file of a slice, in time of a frame.

    Pictures belong to the slices of the same names. If names differ, the first picture by name belongs to the first
    slice by name and so on, if these are in the order of their positions, either way. A label map that says where it
    lies, and one whose scan is not a file for each slice, is returned as it is.

    Raises:
        DataError: naming `where`: there is no such order, or another number of slices.
    """
    if label.placed or not (label.files and image.files):
        return label
    if len(label.files) != len(image.files):
        raise DataError(
            f"{where}: has {len(label.files)} pictures, its scan {len(image.files)} slices; give one for each"
        )
    stems = {PurePath(name).stem: k for k, name in enumerate(label.files)}
    own = [PurePath(name).stem for name in image.files]
    if all(name in stems for name in own):
        order = [stems[name] for name in own]
    else:
        order = _ranks(image.files)
        if order != sorted(order) and order != sorted(order, reverse=True):
            raise DataError(
                f"{where}: its pictures cannot be matched with the slices of its scan: names differ, and those of the "
                f"scan are not in the order of its slices; name each picture like its slice"
            )
    return replace(
        label,
        array=np.take(label.array, order, axis=2 if label.frames is None else 3),
        affine=image.affine,
        spacing=image.spacing,
        slice_axis=image.slice_axis,
        notes=("its pictures are matched with the slices of the scan by their names",),
        files=image.files,
        placed=True,
    )


def _ranks(names: Sequence[str]) -> list[int]:
    """The place of each name in natural order."""
    place = {name: i for i, name in enumerate(sorted(names, key=_natural))}
    return [place[name] for name in names]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)]
