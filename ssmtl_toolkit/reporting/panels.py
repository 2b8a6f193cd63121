"""Panels: pictures of fixed slices in rows and columns, one PNG that says of itself what it shows."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ssmtl_toolkit.data.files import atomic_write
from ssmtl_toolkit.documents import parse_json
from ssmtl_toolkit.reporting.parts import Picture

_TILE, _GAP, _TITLE = 128, 2, 20  # pixels of a tile's longer side at most, between tiles, above them
_KEY = "ssmtl"  # of the PNG's text
_PALETTE = 160  # colours of a picture in a page, which is a third of the size then


@dataclass(frozen=True)
class Panel:
    """What a panel shows.

    Attributes:
        label: whose it is, such as a task.
        step: after how many steps it was drawn.
        columns: their titles.
        rows: what each row shows, such as a slice of a scan.
        tiles: (rows, columns, height, width, 3) uint8.
    """

    label: str
    step: int
    columns: Sequence[str]
    rows: Sequence[str]
    tiles: NDArray[np.uint8]

    def write(self, file: Path) -> None:
        """Write it as a PNG, whole or not at all."""
        rows, columns, height, width, _ = self.tiles.shape
        sheet = Image.new("RGB", (columns * (width + _GAP), _TITLE + rows * (height + _GAP)))
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
        for column, title in enumerate(self.columns):
            draw.text((column * (width + _GAP) + 3, 3), title, fill=(255, 255, 255), font=font)
            for row in range(rows):
                place = column * (width + _GAP), _TITLE + row * (height + _GAP)
                sheet.paste(Image.fromarray(self.tiles[row, column]), place)
        about = {"label": self.label, "step": self.step, "columns": list(self.columns), "rows": list(self.rows)}
        write_png(file, sheet, {**about, "tile": [height, width]})

    @classmethod
    def read(cls, file: Path) -> Panel | None:
        """Read what `write` has written; None if it is something else."""
        image, about = read_png(file)
        if image is None or "tile" not in about:
            return None
        (height, width), pixels = about["tile"], np.asarray(image.convert("RGB"))
        tiles = np.stack(
            [
                np.stack([_cut(pixels, row, column, height, width) for column in range(len(about["columns"]))])
                for row in range(len(about["rows"]))
            ]
        )
        return cls(about["label"], about["step"], about["columns"], about["rows"], tiles)

    def first(self, rows: int) -> Panel:
        """The same with fewer rows."""
        return replace(self, rows=self.rows[:rows], tiles=self.tiles[:rows])

    def strip(self) -> Image.Image:
        """The tiles of the first row, side by side."""
        return Image.fromarray(np.concatenate(list(self.tiles[0]), axis=1))

    def picture(self, row: int, column: int) -> Picture:
        """One tile for a page."""
        alt = f"{self.columns[column]} of {self.rows[row]}, {self.label}, after {self.step} steps"
        height, width = self.tiles.shape[2:4]
        return Picture(png_bytes(Image.fromarray(self.tiles[row, column])), alt, width=width, height=height)


def _cut(pixels: NDArray[np.uint8], row: int, column: int, height: int, width: int) -> NDArray[np.uint8]:
    top, left = _TITLE + row * (height + _GAP), column * (width + _GAP)
    return pixels[top : top + height, left : left + width]


def panel(
    label: str,
    step: int,
    images: Mapping[str, NDArray[np.float32]],
    errors: Mapping[str, NDArray[np.float32]],
    rows: Sequence[str],
) -> Panel:
    """Draw slices (M, H, W) in gray, each row on the scale of its first; errors (M, H, W) in colour, on one scale."""
    from matplotlib import colormaps

    images, errors = ({title: np.nan_to_num(image) for title, image in each.items()} for each in (images, errors))
    first = next(iter(images.values()))
    low, high = (np.percentile(first, q, axis=(1, 2), keepdims=True) for q in (1, 99.5))
    gray = [
        _bytes((image - low) / np.maximum(high - low, 1e-12))[..., None].repeat(3, axis=3) for image in images.values()
    ]
    sizes = {title: np.abs(error) for title, error in errors.items()}
    largest = max([float(np.percentile(size, 99.5)) for size in sizes.values()], default=0.0) or 1.0
    coloured = [_bytes(colormaps["magma"](np.clip(size / largest, 0, 1))[..., :3]) for size in sizes.values()]
    tiles = np.stack([*gray, *coloured], axis=1)
    return Panel(label, step, [*images, *errors], rows, _resized(tiles))


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = (255 * np.clip(values, 0, 1)).round().astype(np.uint8)
    return scaled


def _resized(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = tiles.shape[2:4]
    scale = _TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return np.stack([[np.asarray(Image.fromarray(tile).resize(size, how)) for tile in row] for row in tiles])


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a small PNG: of gray pixels only, or of few colours."""
    pixels = np.asarray(image)
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    elif pixels.ndim == 3:
        image = image.quantize(_PALETTE, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def write_png(file: Path, image: Image.Image, about: Mapping[str, Any]) -> None:
    """Write a picture and what it shows; equal content gives equal bytes."""
    text = PngInfo()
    text.add_text(_KEY, json.dumps(about))
    with atomic_write(file) as temporary:
        image.save(temporary, format="PNG", pnginfo=text)


def read_png(file: Path) -> tuple[Image.Image | None, dict[str, Any]]:
    """Read what `write_png` has written; nothing if it is something else, or damaged."""
    try:
        with Image.open(file) as image:
            image.load()
            about = parse_json(image.text.get(_KEY, "null"))  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        return None, {}
    return (image, about) if isinstance(about, dict) else (None, {})
