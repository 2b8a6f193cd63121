"""Words: the text form of specs (`name:key=value`), foreign text made safe to print, the nearest word, long lists."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import Any

from ssmtl_toolkit.errors import UsageError

NAME = re.compile(r"[a-z][a-z0-9_]*")
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PLAIN = re.compile(r"[^\s,=\"'\[\]{}](?:[^,=\"'\[\]{}\n\r]*[^\s,=\"'\[\]{}])?")
_WORDS = {"true": True, "false": False, "none": None}


def split(text: str) -> tuple[str, str]:
    """Split `name:options` into its name and the text of its options ("" if there are none)."""
    name, _, options = text.partition(":")
    return name.strip(), options


def read_options(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Read `value,key=value,…` into positional values and named ones.

    A value is a word, or JSON if it starts with a quote or a bracket (so a path with a comma is quoted).
    Words stay strings except true, false and none: the spec's own types decide what `5` is.

    Raises:
        UsageError: a key is given twice, a quote is not closed, or a value is not JSON.
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for piece in _pieces(text):
        match = _KEY.fullmatch(piece)
        if match is None:
            positional.append(_read_value(piece))
            continue
        key, value = match.groups()
        if key in named:
            raise UsageError(f"option {key!r} is given twice in {text!r}; give it once")
        named[key] = _read_value(value.strip())
    return positional, named


def write_options(named: Iterable[tuple[str | None, Any]]) -> str:
    """Write options so that `read_options` gives them back; a key of None writes a positional value."""
    return ",".join(_write_value(v) if k is None else f"{k}={_write_value(v)}" for k, v in named)


def _pieces(text: str) -> list[str]:
    """Split at the commas outside quotes and brackets."""
    pieces, start, depth, quoted, escaped = [], 0, 0, False, False
    for i, char in enumerate(text):
        if quoted:
            quoted = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            quoted = True
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            pieces.append(text[start:i].strip())
            start = i + 1
    if quoted or depth:
        raise UsageError(f"a quote or bracket is not closed in {text!r}")
    pieces.append(text[start:].strip())
    return [p for p in pieces if p]


def _read_value(text: str) -> Any:
    if text[:1] in {'"', "[", "{"}:
        from ssmtl_toolkit.documents import parse_json

        try:
            return parse_json(text)
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise UsageError(f"the value {text!r:.200} is not valid JSON: {reason}") from None
    return _WORDS.get(text, text)


def _write_value(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value not in _WORDS
        return value if plain else json.dumps(value, ensure_ascii=False)
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def printable(text: str | os.PathLike[str]) -> str:
    r"""Escape what a terminal would act on or could not print: control, bidi and surrogate characters.

    >>> printable("new\nline \x1b[31m \udcff 心臓.nii.gz")
    'new\\nline \\x1b[31m \\udcff 心臓.nii.gz'
    """
    given = os.fspath(text)
    if given.isprintable():  # nearly all are, and a start asks for each scan
        return given
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in given)


def printable_lines(text: str) -> str:
    """Escape the same in a text of several lines, and let them be lines."""
    return "\n".join(map(printable, text.split("\n")))


def clipped(text: str, width: int) -> str:
    """Cut a text so that it takes at most so many characters.

    >>> clipped("a long text", 7)
    'a long…'
    """
    return text if len(text) <= width else f"{text[: max(width - 1, 0)].rstrip()}…"


def brief(value: Any) -> str:
    """A value as it is written in Python, in a line and in 200 characters at most.

    >>> brief("a\\nb"), brief(10**5000)
    ("'a\\\\nb'", 'a number of 16610 bits')
    """
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python does not write it down
        return f"a number of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def one_each(errors: Iterable[Any]) -> list[Any]:
    """What pydantic says is wrong, once for each value: of one that may be of several types it says a line for each."""
    found: list[Any] = []
    for error in errors:
        same: dict[str, Any] = found[-1] if found else {"loc": (), "input": None}
        if error["loc"] and _place(same) == _place(error) and same["input"] is error["input"]:
            found[-1] = {**same, "loc": _place(error), "msg": f"{same['msg']}, or {_further(error['msg'])}"}
        else:
            found.append(error)
    return found


def _place(error: Any) -> tuple[str | int, ...]:
    """The option and the places in its lists, without the type that pydantic has tried."""
    return (*error["loc"][:1], *(part for part in error["loc"][1:] if isinstance(part, int)))


def _further(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Input should be ")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or "" when none is near."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the nearest known word, or "" when none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), "")


def shortened(lines: Iterable[str], most: int, what: str = "") -> list[str]:
    """Return the lines; of more than `most` the first ones, and how many are not shown.

    Args:
        lines: messages, a line each.
        most: how many are shown.
        what: is appended to the last line, such as " such notes, all in summary.json".

    >>> shortened("abcde", 3, " letters")
    ['a', 'b', 'c', '… and 2 more letters']
    """
    known = list(lines)
    hidden = len(known) - most
    return [*known[:most], f"… and {hidden} more{what}"] if hidden > 0 else known


def listed(items: Iterable[str], most: int) -> str:
    """Enumerate items within a sentence; of more than `most` the first ones, and how many are not shown.

    >>> listed("abcde", 3)
    'a, b, c, … and 2 more'
    """
    return ", ".join(shortened(items, most))


def rounded(number: float) -> str:
    """Write a number with three digits, from 1000 on as a whole.

    >>> rounded(0.12345), rounded(7), rounded(2260.4)
    ('0.123', '7', '2260')
    """
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def counted(number: int, what: str) -> str:
    """Write `1 channel`, `2 channels`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def sized(size: float) -> str:
    """Write bytes for a person.

    >>> [sized(n) for n in (12, 3450, 2.5e9)]
    ['12 B', '3.45 kB', '2.5 GB']
    """
    units = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}
    unit = next((unit for unit, least in units.items() if size >= least), "B")
    return f"{size / units[unit]:.3g} {unit}"


def duration(seconds: float) -> str:
    """Write a time as a person says it, in two units at most.

    >>> [duration(s) for s in (0.2, 42, 119, 3000, 22800, 300000)]
    ['1 s', '42 s', '2 min', '50 min', '6 h 20 min', '3 d 11 h']
    """
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(round(minutes, -1) if minutes >= 120 else minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def sizes_text(sizes: Iterable[int]) -> str:
    """Write sizes as `24 x 20 x 12`."""
    return " x ".join(map(str, sizes))
