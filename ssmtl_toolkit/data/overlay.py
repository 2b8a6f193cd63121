"""Label maps drawn over their slices, also beside the truth: one PNG for a scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.files import atomic_write

# Okabe and Ito's colours, which also people with a colour vision deficiency can tell apart; black is left out.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_TILE = 176  # pixels of the longer side of a slice
_FILL = 0.25  # how much of the colour is mixed in within the outline
_LINE = 18  # pixels of a line of text


def overlay(
    path: Path,
    slices: NDArray[Any],
    index: NDArray[np.uint8],
    spacing: Sequence[float],
    classes: Classes,
    most: int = 100,
    truth: NDArray[np.uint8] | None = None,
    remark: str = "",
) -> None:
    """Draw the classes over all slices of a scan, or over every n-th of a long one, and write a PNG that says which.

    Slices without any class are shown too: what a model has missed is seen there.

    Args:
        path: the file.
        slices: (S, H, W), any real type, in the order of the cut.
        index: (S, H, W) class indices; those that belong to no class are not drawn.
        spacing: mm between slices, rows and columns.
        classes: what the indices mean; of those that overlap the smaller are drawn over the larger.
        most: how many slices at most.
        truth: class indices of the truth, drawn as white lines.
        remark: what is written below, beside the names of the classes.

    Raises:
        SsmtlError: the file cannot be written.
    """
    step = math.ceil(len(slices) / most)
    chosen = range(0, len(slices), step)
    low, high = (float(end) for end in np.percentile(np.asarray(slices[::step], np.float32), (1, 99.5)))
    size = tile_size(slices.shape[1:], spacing)
    masks = _tables(classes)
    tiles = [_tile(slices[i], index[i], low, high, size, masks, i, None if truth is None else truth[i]) for i in chosen]
    columns = math.ceil(math.sqrt(len(tiles) * size[1] / size[0]))
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    remarks = [f"every {_ordinal(step)} of {len(slices)} slices"] if step > 1 else []
    remarks += ["white: truth"] * (truth is not None) + [remark] * bool(remark)
    legend = _legend(classes.names, columns * size[0], "; ".join(remarks))
    sheet = Image.new("RGB", (columns * size[0], rows * size[1] + legend.height))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * size[0], i // columns * size[1]))
    sheet.paste(legend, (0, rows * size[1]))
    with atomic_write(path, what="the overlay ") as temporary:
        sheet.save(temporary, format="PNG")


def _ordinal(number: int) -> str:
    """Write 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def beside(
    slices: NDArray[Any],
    index: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    rows: Sequence[int],
    spacing: Sequence[float],
    classes: Classes,
    side: int = 288,
) -> Image.Image:
    """Draw the slices `rows` side by side, the prediction in colour, the truth as white lines; arrays as `overlay`."""
    low, high = (float(end) for end in np.percentile(np.asarray(slices, np.float32), (1, 99.5)))
    size, masks = tile_size(slices.shape[1:], spacing, side), _tables(classes)
    sheet = Image.new("RGB", (len(rows) * (size[0] + 2) - 2, size[1]))
    for column, i in enumerate(rows):
        sheet.paste(_tile(slices[i], index[i], low, high, size, masks, i, truth[i]), (column * (size[0] + 2), 0))
    return sheet


def colours(number: int) -> list[str]:
    """The colours of so many classes, as `#rrggbb`."""
    return ["#{:02x}{:02x}{:02x}".format(*_COLOURS[i % len(_COLOURS)]) for i in range(number)]


def tile_size(shape: Sequence[int], spacing: Sequence[float], side: int = _TILE) -> tuple[int, int]:
    """Width and height of a tile in pixels, in the proportions of the slice in mm."""
    height, width = shape[0] * spacing[1], shape[1] * spacing[2]
    scale = side / max(height, width)
    return max(32, round(width * scale)), max(32, round(height * scale))


def _tables(classes: Classes) -> dict[int, NDArray[np.bool_]]:
    """For the number of each class, the largest first, which of the 256 indices belong to it."""
    rest = 256 - classes.members.shape[1]
    order = sorted(range(len(classes)), key=lambda i: -int(classes.members[i].sum()))
    return {i: np.pad(classes.members[i], (0, rest)) for i in order}


def _tile(
    pixels: NDArray[Any],
    index: NDArray[np.uint8],
    low: float,
    high: float,
    size: tuple[int, int],
    tables: Mapping[int, NDArray[np.bool_]],
    i: int,
    truth: NDArray[np.uint8] | None = None,
) -> Image.Image:
    gray = np.clip((np.asarray(pixels, np.float32) - low) / max(high - low, 1e-12), 0, 1)
    image = Image.fromarray((255 * gray).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    shown = np.asarray(Image.fromarray(index).resize(size, Image.Resampling.NEAREST))
    rgb = np.repeat(np.asarray(image, np.float32)[:, :, None], 3, axis=2)
    for number, table in tables.items():
        mask, colour = table[shown], np.array(_COLOURS[number % len(_COLOURS)], np.float32)
        rgb[mask] = (1 - _FILL) * rgb[mask] + _FILL * colour
        rgb[mask & ~ndimage.binary_erosion(mask)] = colour  # type: ignore[attr-defined]
    if truth is not None:
        lines = np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST))
        for table in tables.values():
            mask = table[lines]
            rgb[mask & ~ndimage.binary_erosion(mask)] = 255  # type: ignore[attr-defined]
    tile = Image.fromarray(rgb.round().astype(np.uint8))
    ImageDraw.Draw(tile).text((3, 1), str(i), fill=(255, 255, 255), font=_font(), stroke_width=1, stroke_fill=(0, 0, 0))
    return tile


def _legend(names: Sequence[str], width: int, remark: str) -> Image.Image:
    """The names beside squares of their colours, in as many lines as they need, and a remark behind them."""
    font, places, x, y = _font(), [], 4, 2
    for text in [*names, *([remark] if remark else [])]:
        needed = 22 + math.ceil(font.getlength(text))
        if x > 4 and x + needed > width:
            x, y = 4, y + _LINE
        places.append((x, y))
        x += needed
    legend = Image.new("RGB", (width, y + _LINE))
    draw = ImageDraw.Draw(legend)
    for i, (name, (left, top)) in enumerate(zip(names, places, strict=False)):
        draw.rectangle((left, top + 3, left + 9, top + 12), fill=_COLOURS[i % len(_COLOURS)])
        draw.text((left + 14, top), name, fill=(255, 255, 255), font=font)
    if remark:
        draw.text(places[-1], remark, fill=(255, 255, 255), font=font)
    return legend


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=12)
