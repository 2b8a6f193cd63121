"""How far apart slices are: a whole number of slices, mm that each scan's spacing turns into slices, or auto."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic.fields import FieldInfo

from ssmtl_toolkit.errors import UsageError

AUTO = "auto"
_MM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*mm\s*")


def millimetres(text: str) -> str | None:
    """Read `15mm` and write it as short as it goes; None if it is not in mm.

    Raises:
        ValueError: it is not above 0.
    """
    match = _MM.fullmatch(text)
    if match is None:
        return None
    length = float(match[1])
    if length <= 0:
        raise ValueError("a distance in mm should be greater than 0")
    return f"{length:.10g}mm"


def _read(value: Any) -> int | str:
    if isinstance(value, str):
        if value.strip() == AUTO:
            return AUTO
        if (length := millimetres(value)) is not None:
            return length
        if re.fullmatch(r"[+-]?\d+", value.strip()):
            value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("should be a whole number of slices, such as 5, or millimetres, such as 15mm, or auto")
    if value < 1:
        raise ValueError("should be greater than or equal to 1")
    return value


_READ = BeforeValidator(_read)
Distance = Annotated[
    int | str,
    _READ,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "format": "millimetres"},
                {"const": AUTO},
            ]
        }
    ),
]
"""Type of an option such as `t`: `5` (slices, at least 1), `15mm`, or `auto`: what suits the data (`Spec.fitted`)."""


def distances_among(fields: Mapping[str, FieldInfo]) -> list[str]:
    """Names of the options of a spec that are a `Distance`."""
    return [name for name, field in fields.items() if _READ in field.metadata]


def slices_of(distance: int | str, spacing: float) -> int:
    """Turn a `Distance` into slices of a scan that has `spacing` mm between slices: the nearest whole number.

    0 if the distance is less than half the spacing: the scan has no slices that close to each other.

    Raises:
        UsageError: the distance is still `auto`.

    >>> slices_of(5, 2.5), slices_of("15mm", 2.5), slices_of("15mm", 8.0), slices_of("1mm", 3.0)
    (5, 6, 2, 0)
    """
    if isinstance(distance, int):
        return distance
    if distance == AUTO:
        raise UsageError("a distance of auto is chosen by ssmtl run, from its scans; here give a number, or mm")
    return math.floor(float(distance.removesuffix("mm")) / spacing + 0.5)
