"""Reads TOML files, and says which other format a file is in."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from ssmtl_toolkit.documents import parse_json, parse_toml, read_text
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import printable

_YAML = re.compile(r"---|\s*-\s|\s*[\w.-]+\s*:(\s|$)")


def read_toml(file: Path, what: str) -> dict[str, Any]:
    """Read a TOML file that should be `what`, such as "a configuration".

    Raises:
        UsageError: it cannot be read, or is not TOML; JSON and YAML are called by their names.
    """
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{printable(file)}: cannot be read as {what} ({error}); correct or restore it") from None
    try:
        return parse_toml(text)
    except ValueError as error:
        problem = f"cannot be read as {what} ({error}); correct or restore it"
        if other := _other_format(text, file.suffix.lower()):
            problem = f"is {other}; {what} is TOML, a line such as size = 128 for each option"
        raise UsageError(f"{printable(file)}: {problem}") from None


def _other_format(text: str, suffix: str) -> str:
    """Return "JSON", "YAML", or "" for neither."""
    text = text.lstrip("\ufeff \t\r\n")
    if text.startswith(("{", "[")) or suffix == ".json":
        with contextlib.suppress(ValueError):
            parse_json(text)
            return "JSON"
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    alike = [bool(_YAML.match(line)) for line in lines]
    return "YAML" if alike and (all(alike) or suffix in (".yaml", ".yml")) else ""
