"""Values in DICOM headers, looked for where they may be, and refused if they are not what they should be."""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset

from ssmtl_toolkit.data.source import AGAIN, FileError

Vector = tuple[float, ...]


def within(groups: list[Dataset], sequence: str) -> list[Dataset]:
    """Return where a value may be: in this sequence of the frame's or the shared group, or in the file itself."""
    items = [group.get(sequence) for group in groups]
    return [item[0] for item in items if item] + groups[-1:]


def numbers(places: list[Dataset], name: str, count: int, default: Vector | None = None) -> Vector:
    """Read finite numbers from the first place that has them.

    Raises:
        FileError: there are none and no default, or they are not finite numbers.
    """
    value = next((data.get(name) for data in places if data.get(name) not in (None, "")), None)
    if value is None:
        if default is None:
            raise FileError(f"has no {name}, without which it cannot be placed; export the series again")
        return default
    try:
        found = tuple(float(x) for x in (value if isinstance(value, list | tuple) or count > 1 else [value]))
    except (TypeError, ValueError):
        raise FileError(f"has a {name} that is not a number; {AGAIN}") from None
    if len(found) < count or not all(map(math.isfinite, found)):
        raise FileError(f"has a {name} of {len(found)} numbers, {count} finite ones are needed; {AGAIN}")
    return found[:count]


def whole(data: Any, name: str) -> int | None:
    """Read an integer; None if it is missing.

    Raises:
        FileError: it is not an integer.
    """
    value = data.get(name)
    try:
        return None if value in (None, "") else int(value)
    except (TypeError, ValueError):
        raise FileError(f"has a {name} that is not an integer; {AGAIN}") from None
