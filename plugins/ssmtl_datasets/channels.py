"""Cases whose channels are separate files, CASE_0000 and so on: uses one, or joins all as the channels of one scan."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

_NUMBERED = re.compile(r"(.+)_(\d{4})", re.DOTALL)


def _read(value: Any) -> int | str:
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
        value = int(value)
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return "all" if value == "all" else int(value)
    raise ValueError("should be the number of a channel, from 0, or all")


Channel = Annotated[
    int | Literal["all"],
    BeforeValidator(_read),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "enum": ["all"]}]}),
]
"""Type of the option `channel`: `0`, `1` … selects one, `all` joins all of them."""


def numbered(name: str) -> tuple[str, int] | None:
    """Return the case and the channel number of a name such as CASE_0001; None for other names."""
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def scan_of(case: str, files: Mapping[int, Path], wanted: Collection[int], label: Path | None = None) -> Scan:
    """Make one scan from the files of a case, by channel number; unfit if one of those `wanted` is missing."""
    first, *others = (files[number] for number in sorted(files))
    missing = sorted(set(wanted) - files.keys())
    if missing:
        reason = f"its case {printable(case)!r} has no channel {_listed(missing)} (expected: {_listed(sorted(wanted))})"
        todo = "add the file, or choose one channel with channel=N"
        return Scan(first, case, case, unfit=f"{printable(first)}: {reason}; {todo}")
    return Scan(first, case, case, label=label, more=tuple(others))


def joined(scans: Sequence[Scan], root: Path) -> list[Scan]:
    """Make one scan of all channels of a case; cases that lack a channel, and files without a number, are unfit.

    Raises:
        DataError: no name ends in a channel number.
    """
    cases: dict[str, dict[int, Path]] = {}
    kept: list[Scan] = []
    for scan in scans:
        if not scan.unfit and (parts := numbered(scan.name)):
            case, number = parts
            cases.setdefault(case, {})[number] = scan.path
            continue
        reason = "its name does not end in a channel number such as _0000, which channel=all needs"
        kept.append(scan if scan.unfit else replace(scan, unfit=f"{printable(scan.path)}: {reason}"))
    if not cases:
        raise DataError(f"{printable(root)}: has no channels CASE_0000, CASE_0001 …; omit channel=all")
    wanted = {number for files in cases.values() for number in files}
    return [*(scan_of(case, files, wanted) for case, files in cases.items()), *kept]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
