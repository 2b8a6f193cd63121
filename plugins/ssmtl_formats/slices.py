"""From a folder of pictures, or a TIFF file, to a `Volume`; a slices.toml beside it adds what pictures cannot store."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssmtl_formats.decoding import Page, Pictures, is_lossy, pages_of, size_of
from ssmtl_formats.names import SLICES, is_stack, picture_format
from ssmtl_formats.palettes import Palettes
from ssmtl_formats.pictures import slices_of
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.slicing import Axis
from ssmtl_toolkit.data.source import FileError, naming_file
from ssmtl_toolkit.data.values import sanitise_voxels
from ssmtl_toolkit.data.volume import DIRECTIONS, Header, Volume
from ssmtl_toolkit.documents import read_toml
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import printable

_RAS = {"R": (0, 1.0), "L": (0, -1.0), "A": (1, 1.0), "P": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}

_MANY = 32
"""So many values in a picture are gray levels, not labels."""


class _Settings(BaseModel):
    """What slices.toml may set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    spacing: tuple[float, float, float] = Field((1.0, 1.0, 1.0))
    axis: Axis = "axial"
    colours: bool = False  # red, green and blue are channels


def frames_of(path: Path) -> list[Volume]:
    """Read the same pictures as frames of one slice each, in time."""
    whole = read_slices(path)
    names = whole.files or ("",) * whole.shape[2]
    planes = np.split(whole.array, whole.shape[2], axis=2)
    return [
        replace(whole, array=plane, files=(name,) if name else ()) for plane, name in zip(planes, names, strict=True)
    ]


def header_of_frames(path: Path) -> Header:
    """Say the same of them as `read_slices_header` of slices."""
    header = read_slices_header(path)
    return replace(header, shape=(*header.shape[:2], 1), volumes=header.shape[2])


def read_slices(path: Path) -> Volume:
    """Read the pictures of a folder in natural order of their names, or the pages of a TIFF file: (column, row, slice).

    The first slice is the lowest (axial), the one at the front (coronal), or the one at the patient's right (sagittal).

    Raises:
        DataError: naming the folder or file, what is wrong, what was got and what to do.
    """
    with naming_file(path):
        pages, masks = _pages(path)
        notes: list[str] = []
        settings = _settings(pages[0].file, notes)
        if masks:
            notes.append(f"{len(masks)} masks beside its slices (such as {printable(masks[0].name)}) are skipped")
        stacked = _stacked(pages, settings.colours, notes)
        _refuse_masks_between(pages, stacked)
        array, replaced = sanitise_voxels(stacked, notes)
    affine, spacing = _place(settings)
    names = tuple(page.file.name for page in pages)
    files = names if len(set(names)) == len(names) else ()
    is_placed = pages[0].file.with_name(SLICES).is_file()
    return Volume(array, affine, spacing, 2, tuple(notes), replaced, files=files, placed=is_placed)


def read_slices_header(path: Path) -> Header:
    """Say how many pictures there are, how large the first is, and where they lie; no picture is decoded.

    Raises:
        DataError: as `read_slices`, as far as names and the sizes in the pictures' headers show.
    """
    with naming_file(path):
        pages, _ = _pages(path)
        notes: list[str] = []
        settings = _settings(pages[0].file, notes)
        sizes = {size_of(file) for file in dict.fromkeys(page.file for page in pages)}
        if len(sizes) > 1:
            raise FileError("has slices of different sizes; put each scan's slices into a folder of its own")
    affine, spacing = _place(settings)
    is_placed = pages[0].file.with_name(SLICES).is_file()
    channels = 3 if settings.colours else 1
    return Header((*sizes.pop(), len(pages)), affine, spacing, 2, tuple(notes), channels, placed=is_placed)


def _place(settings: _Settings) -> tuple[NDArray[np.float64], tuple[float, float, float]]:
    """Return the affine and the mm between columns, rows and slices."""
    spacing = (settings.spacing[2], settings.spacing[1], settings.spacing[0])
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (direction, step) in enumerate(zip(reversed(DIRECTIONS[settings.axis]), spacing, strict=True)):
        affine[_RAS[direction][0], axis] = _RAS[direction][1] * step
    return affine, spacing


def refuse_lossy(path: Path) -> None:
    """Refuse a label map that is compressed as JPEG.

    Raises:
        DataError: it is.
    """
    with naming_file(path):
        for file in dict.fromkeys(page.file for page in _pages(path)[0]):
            if is_lossy(file):
                raise FileError(
                    f"is a label map as JPEG, whose values change around each edge ({printable(file.name)}); save the "
                    f"labels as PNG"
                )


def parts_of(path: Path) -> dict[str, Path]:
    """Return the one scan of a folder or file, unless its pictures are not slices: of different sizes, or in colour.

    This skips figures and screenshots beside scans; damage is left to `read_slices` to report.

    Raises:
        DataError: they are not slices, or slices of several scans, and why.
    """
    if not path.is_dir():
        return {"": path}
    with naming_file(path), Pictures() as pictures:
        pages, _ = _pages(path)
        sizes = set()
        for page in pages:
            with contextlib.suppress(DataError):
                sizes.add(pictures.size(page))
        if len(sizes) > 1:
            raise FileError("holds pictures of different sizes: not the slices of a scan")
        pictures.check(pages[0], colours=_settings(pages[0].file, []).colours)
    return {"": path}


def _pages(path: Path) -> tuple[list[Page], list[Path]]:
    """The pictures of a scan in order, and the masks beside them."""
    if path.is_dir():
        files, masks = slices_of(path)
        return [Page(file) for file in files], masks
    return [Page(path, number) for number in range(pages_of(path))], []


def _settings(picture: Path, notes: list[str]) -> _Settings:
    """Read slices.toml beside a picture; if missing, assume axial slices 1 mm apart, with a note."""
    file = picture.with_name(SLICES)
    if not file.is_file():
        order = "by pages" if is_stack(picture) else "by names"
        notes.append(
            f"{picture_format(picture)} has no positions: read as axial, 1 mm apart, {order}; a {SLICES} can set "
            f"spacing and axis"
        )
        return _Settings()
    with naming_file(file):
        try:
            settings = _Settings.model_validate(read_toml(file))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise FileError(
                f"{printable(where)}: {first['msg']}; expected spacing = [slices, rows, columns] in mm, "
                f"axis = {' or '.join(get_args(Axis))}, and colours = true if these are channels"
            ) from None
        if min(settings.spacing) <= 0:
            raise FileError(f"its spacing is {list(settings.spacing)}; distances in mm above 0 are needed")
    if "spacing" not in settings.model_fields_set:
        notes.append(f"its {SLICES} sets no spacing; 1 mm is assumed")
    return settings


def _stacked(pages: Sequence[Page], colours: bool, notes: list[str]) -> NDArray[Any]:
    """Read all slices (column, row, slice), with `colours` (…, 3), of the widest type that one of them has."""
    palettes = Palettes([] if colours else pages)
    with Pictures() as pictures:
        first = pictures.pixels(pages[0], indexed=palettes.indexed, colours=colours)
        check_memory((*first.shape, len(pages)), np.dtype(np.int32))
        array = np.empty((first.shape[1], first.shape[0], len(pages), *first.shape[2:]), first.dtype, order="F")
        for k, page in enumerate(pages):
            plane = pictures.pixels(page, indexed=palettes.indexed, colours=colours)
            if plane.shape != first.shape:
                size, first_size = (f"{shape[1]} x {shape[0]}" for shape in (plane.shape, first.shape))
                raise FileError(
                    f"has slices of different sizes: {printable(str(page))} has {size} pixels, "
                    f"{printable(str(pages[0]))} {first_size}; put each scan's slices into a folder of its own"
                )
            palettes.check(page, plane)
            if plane.dtype != array.dtype:
                array = array.astype(np.promote_types(plane.dtype, array.dtype), order="F")
            array[:, :, k] = plane.swapaxes(0, 1)
    notes += palettes.finish()
    return array


def _refuse_masks_between(pages: Sequence[Page], array: NDArray[Any]) -> None:
    """Refuse slices (column, row, slice, …) of many values of which a quarter or more have two, as masks do."""
    planes = [array[:, :, k] for k in range(len(pages))]
    pairs = [bool(((plane == plane.min()) | (plane == plane.max())).all() and np.ptp(plane)) for plane in planes]
    if not len(pages) / 4 <= sum(pairs) < len(pages):
        return
    others = [len(np.unique(plane)) for plane, pair in zip(planes, pairs, strict=True) if not pair]
    if np.median(others) > _MANY:
        first = printable(str(pages[pairs.index(True)]))
        raise FileError(
            f"holds {sum(pairs)} pictures of two values (such as {first}) between {len(others)} of many, as if masks "
            f"lay among slices; put the masks into a folder of their own, masks/"
        )
