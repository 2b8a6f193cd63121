"""The segments that 3D Slicer describes in the header of a .seg.nrrd: names, values, and layers if they overlap."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_formats.overlaps import Part, Voxels, named, painted, values_of
from ssmtl_formats.stored import header_lines
from ssmtl_toolkit.data.source import AGAIN, FileError, Source, naming_file

_FIELD = re.compile(r"Segment([0-9]{1,5})_(Name|LabelValue|Layer):=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """A segment: where `layer` has `stored`, the label map has `value`."""

    name: str
    layer: int
    stored: int
    value: int


def segments_of(path: Path) -> list[Segment]:
    """Read the segments that the header of a NRRD file describes; none if it is no segmentation.

    Raises:
        FileError: the header is damaged.
    """
    fields: dict[int, dict[str, str]] = {}
    with Source(path, plain=True) as source:
        for line in header_lines(source):
            if match := _FIELD.match(line):
                fields.setdefault(int(match[1]), {})[match[2]] = match[3].strip()
    numbers = sorted(fields)
    layered = any("Layer" in fields[i] for i in numbers)  # before 2020 each segment had a layer of its own
    layers = [_whole(fields[i].get("Layer", "0" if layered else str(i))) for i in numbers]
    stored = [_whole(fields[i].get("LabelValue", "1"), least=1) for i in numbers]
    names = [fields[i].get("Name", f"Segment_{i + 1}") for i in numbers]
    return [Segment(*of) for of in zip(names, layers, stored, values_of(stored), strict=True)]


def classes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Name the segments of a NRRD file, with the values that `joined` gives them.

    Raises:
        DataError: naming the file; its header is damaged.
    """
    with naming_file(path):
        segments = segments_of(path)
    return named([segment.name for segment in segments], [segment.value for segment in segments])


def joined(layers: NDArray[Any], segments: Sequence[Segment], notes: list[str]) -> NDArray[Any]:
    """Make one label map (I, J, K) of layers (V, I, J, K).

    Raises:
        FileError: voxels are not whole numbers, or a segment is in a layer that does not exist.
    """
    if layers.dtype.kind not in "iu":
        raise FileError(f"has segments of {layers.dtype} voxels; save the segmentation again")
    if outside := [segment.layer for segment in segments if segment.layer >= len(layers)]:
        if len(layers) > 1 or any(segment.stored != segment.value for segment in segments):
            raise FileError(f"names layer {outside[0]} of {len(layers)}; {AGAIN}")
        segments = [Segment(segment.name, 0, segment.stored, segment.value) for segment in segments]
    if len(layers) == 1 and all(segment.stored == segment.value for segment in segments):
        whole: NDArray[Any] = layers[0]
        return whole
    sizes = [dict(zip(*_counted(layer), strict=True)) for layer in layers]

    def part(segment: Segment) -> Part:
        def pieces() -> Iterator[Voxels]:
            yield np.flatnonzero(layers[segment.layer] == segment.stored)

        return Part(segment.value, sizes[segment.layer].get(segment.stored, 0), pieces)

    return painted(layers.shape[1:], [part(segment) for segment in segments], notes)


def _counted(layer: NDArray[Any]) -> tuple[list[int], list[int]]:
    values, counts = np.unique(layer, return_counts=True)
    return values.tolist(), counts.tolist()


def _whole(text: str, least: int = 0) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise FileError(f"numbers a segment {text[:40]!r}, a whole number is needed; {AGAIN}")
    return int(text)
