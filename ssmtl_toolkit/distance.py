"""How far apart slices are: a number of slices; mm or ms, which each scan's spacing turns into slices; or auto."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic.fields import FieldInfo

from ssmtl_toolkit.errors import UsageError

AUTO = "auto"
_MOST, _LONGEST = 100_000, 1e9  # slices; mm or ms: more than any scan has
_DIGITS = 100  # Python refuses to read integers of thousands of digits
_LENGTH = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(mm|ms)\s*")


def length_of(text: str) -> str | None:
    """Read `15mm` or `40ms` and write it as short as it goes; None if it is neither.

    Raises:
        ValueError: it is not above 0, or beyond all scans.
    """
    match = _LENGTH.fullmatch(text)
    if match is None:
        return None
    length = float(match[1])
    if not 0 < length <= _LONGEST:
        raise ValueError(f"a distance in {match[2]} should be greater than 0, and at most {_LONGEST:.0f}")
    return f"{length:.10g}{match[2]}"


def _read(value: Any) -> int | str:
    if isinstance(value, str):
        if value.strip() == AUTO:
            return AUTO
        if (length := length_of(value)) is not None:
            return length
        if re.fullmatch(r"[+-]?[0-9]+", value.strip()):
            value = int(value) if len(value) < _DIGITS else _MOST + 1
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            "should be a whole number of slices, such as 5, or millimetres, such as 15mm, in time milliseconds, such "
            "as 40ms, or auto"
        )
    if value < 1:
        raise ValueError("should be greater than or equal to 1")
    if value > _MOST:
        raise ValueError(f"should be less than or equal to {_MOST}")
    return value


_READ = BeforeValidator(_read)
Distance = Annotated[
    int | str,
    _READ,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": _MOST},
                {"type": "string", "format": "millimetres"},
                {"const": AUTO},
            ]
        }
    ),
]
"""Type of an option such as `t`: `5` (slices, at least 1), `15mm`, `40ms` in time, or `auto` (`Spec.fitted`)."""


def distances_among(fields: Mapping[str, FieldInfo]) -> list[str]:
    """Names of the options of a spec that are a `Distance`."""
    return [name for name, field in fields.items() if _READ in field.metadata]


def slices_of(distance: int | str, spacing: float) -> int:
    """Turn a `Distance` into slices of a scan with `spacing` mm, in time ms, between slices: the nearest whole number.

    0 if the distance is less than half the spacing: the scan has no slices that close to each other.

    Raises:
        UsageError: the distance is still `auto`, or the spacing is unknown (0), as of frames without times.

    >>> slices_of(5, 2.5), slices_of("15mm", 2.5), slices_of("15mm", 8.0), slices_of("1mm", 3.0)
    (5, 6, 2, 0)
    """
    if isinstance(distance, int):
        return distance
    if distance == AUTO:
        raise UsageError("a distance of auto is chosen by ssmtl run, from its scans; here give a number, or mm")
    if not spacing:
        raise UsageError(f"a distance of {distance} needs to know how far apart slices are; give a number of frames")
    return math.floor(float(distance[:-2]) / spacing + 0.5)


def is_length(value: Any) -> bool:
    """Whether the value of an option is a distance in mm or ms."""
    return isinstance(value, str) and _LENGTH.fullmatch(value) is not None


def check_unit(named: str, options: Iterable[tuple[str, Any]], *, in_time: bool) -> None:
    """Refuse options in mm if slices follow each other in time, and in ms if they do not.

    Raises:
        UsageError: naming what was `named`, and the option.
    """
    wrong, right = ("mm", "ms, such as 40ms") if in_time else ("ms", "mm, such as 15mm")
    number = "frames" if in_time else "slices"
    for name, value in options:
        if isinstance(value, str) and (match := _LENGTH.fullmatch(value)) and match[2] == wrong:
            axis = "with --axis time" if in_time else "without --axis time"
            raise UsageError(
                f"{named}: {name}={value} is in {wrong}, and {axis} {number} are {right[:2]} apart; give {right}, or a "
                f"number of {number}"
            )
