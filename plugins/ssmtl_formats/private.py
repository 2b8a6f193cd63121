"""b-values and gradient directions in private elements, for vendors that use the standard ones rarely or never."""

from __future__ import annotations

import re
import struct

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

Vector = tuple[float, ...]

_GE, _PHILIPS, _SIEMENS, _UIH = ("GE",), ("PHILIPS",), ("SIEMENS",), ("UIH", "IMAGE PRIVATE HEADER")
# vendor, elements, and the type of number if the file does not give it
_B_VALUES = (
    (_SIEMENS, [0x0019100C], "d"),
    (_GE, [0x00431039], "d"),
    (_PHILIPS, [0x20011003], "f"),
    (_UIH, [0x00651009], "d"),
)
_DIRECTIONS = (
    (_SIEMENS, [0x0019100E], "d"),
    (_GE, [0x001910BB, 0x001910BC, 0x001910BD], "d"),
    (_PHILIPS, [0x200510B0, 0x200510B1, 0x200510B2], "f"),
    (_UIH, [0x00651037], "d"),
)
_TILES = 0x0019100A  # number of slices in a Siemens mosaic
_GE_FLAGS = 1_000_000  # multiples of it are added to GE's b-values

_USED = [*(tag for _, tags, _ in (*_B_VALUES, *_DIRECTIONS) for tag in tags), _TILES]
TAGS = sorted({*_USED, *((tag & 0xFFFF0000) + 0x10 for tag in _USED)})


def b_value(data: Dataset) -> float:
    """Return the b-value of a classic image, 0 if missing."""
    for vendor, tags, packed in _B_VALUES:
        if numbers := _numbers(data, vendor, tags[0], packed):
            return numbers[0] % _GE_FLAGS
    return 0.0


def direction(data: Dataset) -> Vector:
    """Return the gradient direction of a classic image that has a b-value, () if missing."""
    for vendor, tags, packed in _DIRECTIONS:
        numbers = [number for tag in tags for number in _numbers(data, vendor, tag, packed)]
        if len(numbers) == 3 and b_value(data):  # without one, GE keeps other things in these elements
            return tuple(numbers)
    return ()


def tiles(data: Dataset) -> int:
    """How many slices of a volume this image shows side by side, as Siemens says; 0 if it does not say so."""
    return int(max(_numbers(data, _SIEMENS, _TILES, "H"), default=0))


def _numbers(data: Dataset, vendor: tuple[str, ...], tag: int, packed: str) -> Vector:
    """Read a private element; () if it is missing, another vendor's or damaged."""
    if tag not in data:
        return ()
    try:
        creator = data.get((tag & 0xFFFF0000) + 0x10)  # which anonymisers may have removed
        name = data.get("Manufacturer", "") if creator is None else creator.value
        if not str(name).strip().upper().startswith(vendor):
            return ()
        value = data[tag].value
        if isinstance(value, bytes):
            if re.fullmatch(rb"[-+.\deE\\ ]+\0?", value):
                value = value.decode("ascii").strip(" \0").split("\\")
            else:
                value = struct.unpack(f"<{len(value) // struct.calcsize(packed)}{packed}", value)
        return tuple(float(x) for x in (value if isinstance(value, MultiValue | list | tuple) else [value]))
    except Exception:  # pydicom fails in many ways if an element is damaged
        return ()
