"""Numbers as users write them: in plain digits, and no larger than any use has."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

MOST = 10**9  # of whole numbers of a command
_LARGEST = sys.float_info.max  # of other numbers, which become floats
_DIGITS = 400  # up to there a text is read as a whole number
_DIGIT = re.compile(r"[0-9]")
_WHOLE = re.compile(r"[+-]?[0-9]+")
PLAIN = "should be written in plain digits, such as 10 or 0.5"


def is_plain(text: str) -> bool:
    """Whether a text that Python reads as a number has plain digits only: no 1_000, none of other scripts.

    >>> is_plain("1000"), is_plain("1_000"), is_plain("１"), is_plain("a_b")
    (True, False, False, True)
    """
    if text.isascii() and "_" not in text:
        return True
    try:
        float(text)
    except ValueError:
        return True
    return False


def check_number(value: Any, field: FieldInfo, most: int) -> Any:
    """Return the value that is given for a field; without bounds of its own, whole numbers reach from -most to most.

    Raises:
        ValueError: it is larger, or a number that is not written in plain digits.
    """
    kinds = set(_kinds(field.annotation))
    if not kinds & {int, float}:
        return value
    for one in value if isinstance(value, list | tuple) else [value]:
        number = _number(one)
        if number is None:
            continue
        usual = most if int in kinds else _LARGEST
        highest, lowest = _bound(field, "le", "lt"), _bound(field, "ge", "gt")
        if number > (usual if highest is None else _LARGEST):
            raise ValueError(f"should be at most {usual if highest is None else highest}")
        if number < -(usual if lowest is None else _LARGEST):
            raise ValueError(f"should be at least {-usual if lowest is None else lowest}")
    return value


def _bound(field: FieldInfo, *names: str) -> Any:
    """A bound that the field has itself, under one of these names."""
    return next((getattr(mark, name) for mark in field.metadata for name in names if hasattr(mark, name)), None)


def _number(value: Any) -> float | int | None:
    """A value as a number, if it is a whole one or the text of one."""
    if isinstance(value, str):
        if not is_plain(value):
            raise ValueError(PLAIN)
        try:
            number = int(value) if len(value) < _DIGITS and _WHOLE.fullmatch(value.strip()) else float(value)
        except ValueError:
            return None
        return number if _DIGIT.search(value) else None  # inf and nan: the type of the option says what becomes of them
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that make up an annotation."""
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _kinds(part)
