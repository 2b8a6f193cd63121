"""From a folder of PNG slices to a `Volume`; a slices.toml beside them adds what PNG cannot store."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssmtl_formats.names import SLICES
from ssmtl_formats.palettes import Palettes
from ssmtl_formats.pictures import slices_of
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.slicing import Axis
from ssmtl_toolkit.data.source import AGAIN, FileError, naming_file
from ssmtl_toolkit.data.volume import DIRECTIONS, Volume
from ssmtl_toolkit.text import printable

_RAS = {"R": (0, 1.0), "L": (0, -1.0), "A": (1, 1.0), "P": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}
_GRAY = {"1": np.uint8, "L": np.uint8, "I;16": np.uint16, "I": np.int32}
_STRETCHED = {2: 85, 4: 17}  # Pillow stretches these few values to 0..255; we restore the stored ones
_MAX_PIXELS = 1 << 28  # of one slice


class _Settings(BaseModel):
    """What slices.toml may set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    spacing: tuple[float, float, float] = Field((1.0, 1.0, 1.0))
    axis: Axis = "axial"


def read_slices(folder: Path) -> Volume:
    """Read the PNG files of a folder in natural order of their names, voxels (column, row, slice).

    The first slice is the lowest (axial), the one at the front (coronal), or the one at the patient's right (sagittal).

    Raises:
        DataError: naming the folder or file, what is wrong, what was got and what to do.
    """
    with naming_file(folder):
        files, masks = slices_of(folder)
        notes: list[str] = []
        settings = _settings(folder / SLICES, notes)
        if masks:
            notes.append(f"{len(masks)} masks beside its slices (such as {printable(masks[0].name)}) are skipped")
        array = _stacked(files, notes)
    spacing = (settings.spacing[2], settings.spacing[1], settings.spacing[0])
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (direction, step) in enumerate(zip(reversed(DIRECTIONS[settings.axis]), spacing, strict=True)):
        affine[_RAS[direction][0], axis] = _RAS[direction][1] * step
    names, placed = tuple(file.name for file in files), (folder / SLICES).is_file()
    return Volume(array, affine, spacing, 2, tuple(notes), files=names, placed=placed)


def parts_of(folder: Path) -> dict[str, Path]:
    """Return the one scan of a folder, unless its pictures are not slices: of different sizes, or the first in colour.

    This skips figures and screenshots beside scans; damage is left to `read_slices` to report.

    Raises:
        DataError: they are not slices, or slices of several scans, and why.
    """
    with naming_file(folder), contextlib.suppress(SyntaxError, OSError, ValueError, Image.DecompressionBombError):
        files, _ = slices_of(folder)
        sizes = {_header(file)[0] for file in files}
        if len(sizes) > 1:
            raise FileError("holds pictures of different sizes: not the slices of a scan")
        for file in files[:1]:
            with Image.open(file, formats=["PNG"]) as image:
                _gray(image, _header(file)[1], indexed=True)
    return {"": folder}


def _settings(file: Path, notes: list[str]) -> _Settings:
    """Read slices.toml; if missing, assume axial slices 1 mm apart, with a note."""
    if not file.is_file():
        notes.append(f"PNG has no positions: read as axial, 1 mm apart, by names; a {SLICES} can set spacing and axis")
        return _Settings()
    with naming_file(file):
        try:
            settings = _Settings.model_validate(tomllib.loads(file.read_text(encoding="utf-8-sig")))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise FileError(
                f"{printable(where)}: {first['msg']}; expected spacing = [slices, rows, columns] in mm, and "
                f"axis = {' or '.join(get_args(Axis))}"
            ) from None
        if min(settings.spacing) <= 0:
            raise FileError(f"its spacing is {list(settings.spacing)}; distances in mm above 0 are needed")
    if "spacing" not in settings.model_fields_set:
        notes.append(f"its {SLICES} sets no spacing; 1 mm is assumed")
    return settings


def _stacked(files: Sequence[Path], notes: list[str]) -> NDArray[Any]:
    """Read all slices (column, row, slice), of the widest type that one of them has."""
    palettes = Palettes(files)
    first = _pixels(files[0], palettes)
    check_memory((*first.shape, len(files)), np.dtype(np.int32))
    array = np.empty((first.shape[1], first.shape[0], len(files)), first.dtype, order="F")
    for k, file in enumerate(files):
        plane = _pixels(file, palettes)
        if plane.shape != first.shape:
            size, first_size = (f"{shape[1]} x {shape[0]}" for shape in (plane.shape, first.shape))
            raise FileError(
                f"has slices of different sizes: {printable(file.name)} has {size} pixels, {printable(files[0].name)} "
                f"{first_size}; put each scan's slices into a folder of its own"
            )
        palettes.check(file, plane)
        if plane.dtype != array.dtype:
            array = array.astype(np.promote_types(plane.dtype, array.dtype), order="F")
        array[..., k] = plane.T
    notes += palettes.finish()
    return array


def _pixels(file: Path, palettes: Palettes) -> NDArray[Any]:
    """Decode one PNG to (rows, columns)."""
    with naming_file(file):
        try:
            with Image.open(file, formats=["PNG"]) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise FileError(f"has {image.width} x {image.height} pixels, too many for a slice; crop it")
                image.verify()  # compares the checksums, which loading does not
            with Image.open(file, formats=["PNG"]) as image:
                image.load()
                return _gray(image, _header(file)[1], palettes.indexed)
        except (SyntaxError, OSError, ValueError, EOFError, Image.DecompressionBombError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise FileError(f"is damaged or not a PNG ({type(error).__name__}); {AGAIN}") from None


def _header(file: Path) -> tuple[bytes, int]:
    """Read width and height, and the bits per value, from the PNG header."""
    with file.open("rb") as stream:
        head = stream.read(25).ljust(25, b"\0")
    return head[16:24], head[24]


def _gray(image: Image.Image, bits: int, indexed: bool) -> NDArray[Any]:
    """Return the one value of each pixel: gray, equal colours or, with `indexed`, the index of a palette."""
    if image.mode in _GRAY:
        array = np.asarray(image).astype(_GRAY[image.mode])
        return array // _STRETCHED[bits] if bits in _STRETCHED else array
    if bits == 16:  # Pillow would keep 8 of them
        raise FileError("has colours or transparency of 16 bits; save it as gray")
    array = np.asarray(image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB"))
    if array.shape[2] == 4 and (array[..., 3] != 255).any():
        raise FileError("is transparent in places; save it as gray")
    if image.mode == "P" and indexed:
        return np.asarray(image)
    if (array[..., :3] == array[..., :1]).all():
        return np.ascontiguousarray(array[..., 0])
    raise FileError("has colours; a slice has one value per pixel: save it as gray")
