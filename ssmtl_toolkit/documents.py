"""Small files of others, JSON and TOML: how large, how deep and how long to read they may be, whatever is in them."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MOST_BYTES = 32 * 2**20  # of any document: an entry each for 100,000 scans is less
_MOST_TOML = 4 * 2**20  # tomllib reads 3 MB a second
_MOST_VALUES = 1_000_000  # 0.5 GB of memory at worst
_DEEPEST = 64  # lists and tables within each other
# each alternative also takes a string that never ends, so that no text is read twice
_STRING = r'"""(?s:\\.|[^\\])*?(?:"""|\\?\Z)|\'\'\'(?s:.)*?(?:\'\'\'|\Z)|"(?:\\.|[^"\\\n])*+"?|\'[^\'\n]*+\'?'
_WORDS = re.compile(rf"{_STRING}|#[^\n]*+")
_LONG_KEY = re.compile(r"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){8}")  # tomllib takes the square of their length


def read_json(file: Path) -> Any:
    """Read a file of JSON in UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or exceeds the limits.
    """
    return parse_json(read_text(file))


def read_result(file: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON file that a run of ours has written; {} if it is missing, damaged, or has not all these keys.

    Whoever needs it makes it again then.
    """
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.keys() >= set(keys) else {}


def read_toml(file: Path) -> dict[str, Any]:
    """Read a file of TOML in UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML, or exceeds the limits.
    """
    return parse_toml(read_text(file))


def read_text(file: Path) -> str:
    """Read a text file in UTF-8; a byte order mark is dropped.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, not UTF-8, or too large.
    """
    if not stat.S_ISREG(file.stat().st_mode):  # a pipe or device may never end
        raise ValueError("it is not a regular file")
    with file.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MB")
    return content.decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or exceeds the limits.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    if sum(map(text.count, ",[{")) > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES} values")
    try:
        return _of_limited_depth(json.loads(text, object_pairs_hook=_each_once))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; json alone takes the last of equal keys, and what the others said is lost."""
    table = dict(pairs)
    if len(table) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it has the key {key[:80]!r} twice in one object")
    return table


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: it is not TOML, or exceeds the limits.
    """
    if len(text) > _MOST_TOML:
        raise ValueError(f"it is larger than {_MOST_TOML >> 20} MB")
    if _LONG_KEY.search(_WORDS.sub("_", text)):
        raise ValueError("it has a key of more than eight parts")
    try:
        document: dict[str, Any] = _of_limited_depth(tomllib.loads(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return document


def _of_limited_depth(document: Any) -> Any:
    """Return it; what walks through it later, to compare or print it, calls itself for each level."""
    level = [document]
    for _ in range(_DEEPEST):
        level = [child for parent in level if isinstance(parent, dict | list) for child in _children(parent)]
        if not level:
            return document
    raise ValueError("it is nested too deeply")


def _children(parent: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return parent.values() if isinstance(parent, dict) else parent
