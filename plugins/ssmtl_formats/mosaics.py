"""Siemens mosaics: one image that shows all slices of a volume side by side, as tiles; where each slice lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

CSA_TAGS = (0x00290010, 0x00290011, 0x00291010, 0x00291110)  # the vendor's header of an image, and who made it
_MOST = 1 << 10  # slices


@dataclass(frozen=True)
class Csa:
    """What the vendor's own header (CSA) says: the number of slices (0 if missing), and the direction they are in."""

    slices: int = 0
    normal: tuple[float, ...] = ()


@dataclass(frozen=True)
class Tiles:
    """The slices of a mosaic.

    Attributes:
        count: how many there are; further tiles are blank.
        side: how many tiles are in a row, and how many rows.
        size: rows and columns of a tile.
        positions: of the first pixel of each slice, mm in LPS.
        assumed: the header does not say in which direction the slices follow each other.
    """

    count: int
    side: int
    size: tuple[int, int]
    positions: tuple[tuple[float, ...], ...]
    assumed: bool


def csa_of(data: Dataset) -> Csa:
    """Read the vendor's header, in the elements `CSA_TAGS`, by nibabel; missing or damaged parts count as nothing.

    To be called where warnings are silenced: nibabel calls its reader experimental.
    """
    try:
        from nibabel.nicom import csareader

        found = csareader.get_csa_header(data, "image")
        if found is None:
            return Csa()
        normal = csareader.get_vector(found, "SliceNormalVector", 3)
        slices = csareader.get_scalar(found, "NumberOfImagesInMosaic")
        return Csa(int(slices or 0), () if normal is None else tuple(map(float, normal)))
    except Exception:  # it fails in many ways if the header is damaged
        return Csa()


def tiles_of(
    count: int,
    size: tuple[int, int],
    position: tuple[float, ...],
    directions: tuple[float, ...],
    pixel: tuple[float, ...],
    distance: float,
    normal: tuple[float, ...],
) -> Tiles | None:
    """Place the slices of a mosaic; None: its header is impossible.

    The position in the header is that of the first slice if it were as large as the whole mosaic, with the same centre;
    slices follow along the normal, whose sign only the vendor's header has. See nibabel's description of the format,
    https://nipy.org/nibabel/dicom/dicom_mosaic.html.

    Args:
        count: number of slices.
        size: rows and columns of the mosaic.
        position: of its first pixel, mm in LPS.
        directions: along a row, then along a column.
        pixel: mm between rows and between columns.
        distance: mm between slices.
        normal: the direction of the slices; (): unknown.
    """
    side = math.ceil(math.sqrt(count))
    if not 1 < count <= _MOST or size[0] % side or size[1] % side or not distance > 0:
        return None
    tile = (size[0] // side, size[1] // side)
    row, column = np.reshape(directions, (2, 3))
    across = np.cross(row, column)
    if normal and across @ np.array(normal) < 0:
        across = -across
    inset = row * pixel[1] * (size[1] - tile[1]) / 2 + column * pixel[0] * (size[0] - tile[0]) / 2
    first = np.array(position) + inset
    places = tuple(tuple((first + k * distance * across).tolist()) for k in range(count))
    return Tiles(count, side, tile, places, not normal)


def cut(planes: NDArray[Any], side: int) -> NDArray[Any]:
    """Cut a mosaic (1, rows, columns) into its tiles (tiles, rows, columns), row by row."""
    _, rows, columns = planes.shape
    tiles = planes.reshape(side, rows // side, side, columns // side)
    return tiles.transpose(0, 2, 1, 3).reshape(side * side, rows // side, columns // side)


def is_mosaic(data: Dataset) -> bool:
    """Whether an image calls itself a mosaic."""
    return "MOSAIC" in str(data.get("ImageType") or "").upper()
