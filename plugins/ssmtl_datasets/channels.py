"""Cases whose channels are separate files, CASE_0000 or CASE_t1: uses one, or joins several as those of one scan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import did_you_mean, printable

_NUMBERED = re.compile(r"(.+)_(\d{4})", re.DOTALL)
_BETWEEN = "-_. +"


def _read(value: Any) -> int | str:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
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


@dataclass(frozen=True)
class Choice:
    """Which channels a user has asked for: one by its number, all, or those of these names (`contrasts`), in order."""

    channel: Channel = 0
    contrasts: tuple[str, ...] = ()

    @property
    def joins(self) -> bool:
        """Whether files are joined as the channels of a scan."""
        return bool(self.contrasts) or self.channel == "all"

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The chosen channels by number; (): all of them; None: they are named by words."""
        if not self.contrasts:
            return () if self.channel == "all" else (self.channel,)
        return tuple(map(int, self.contrasts)) if all(map(str.isdecimal, self.contrasts)) else None


@dataclass(frozen=True)
class Part:
    """A scan that is one contrast of a case; `case` names the case."""

    scan: Scan
    case: str
    contrast: str


def numbered(name: str) -> tuple[str, int] | None:
    """Return the case and the channel number of a name such as CASE_0001; None for other names."""
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def contrast_of(number: int) -> str:
    """What a channel is called that has a number only: as in the names of nnU-Net's files."""
    return f"{number:04d}"


def scan_of(case: str, files: Mapping[str, Path], wanted: Sequence[str] = (), label: Path | None = None) -> Scan:
    """Make one scan from the files of a case, by contrast, in the order of `wanted` (by default their own).

    It is unfit if one of those `wanted` is missing.
    """
    wanted = wanted or tuple(files)
    first = next(iter(files.values()))
    if missing := [contrast for contrast in wanted if contrast not in files]:
        reason = f"its case {printable(case)!r} has no channel {_listed(missing)} (expected: {_listed(wanted)})"
        todo = "add the file, or choose others with channel=N or channels=A+B"
        return Scan(first, case, case, unfit=f"{printable(first)}: {reason}; {todo}")
    first, *others = (files[contrast] for contrast in wanted)
    return Scan(first, case, case, label=label, more=tuple(others), contrasts=tuple(wanted))


def by_number(scans: Sequence[Scan]) -> tuple[list[Part], list[Scan]]:
    """Return the scans whose names end in a channel number, and the others."""
    parts, others = [], []
    for scan in scans:
        if not scan.unfit and (found := numbered(scan.name)):
            parts.append(Part(scan, found[0], contrast_of(found[1])))
        else:
            others.append(scan)
    return parts, others


def by_word(scans: Sequence[Scan], words: Sequence[str]) -> tuple[list[Part], list[Scan]]:
    """Return the scans in whose names one of these words stands between separators, and the others.

    >>> [(part.case, part.contrast) for part in by_word([Scan(Path("a"), "p1/p1_T1", "p1")], ["t1"])[0]]
    [('p1/p1', 't1')]
    """
    parts, others = [], []
    for scan in scans:
        folder, _, name = scan.name.rpartition("/")
        within = {word: match for word in words if (match := _word(word).search(name))}
        longest = max(within, key=len, default="")
        if scan.unfit or not longest:
            others.append(scan)
            continue
        before, after = name[: within[longest].start()], name[within[longest].end() :]
        case = "_".join(part for part in (before.strip(_BETWEEN), after.strip(_BETWEEN)) if part)
        parts.append(Part(scan, "/".join(part for part in (folder, case) if part) or scan.patient, longest))
    return parts, others


def joined(scans: Sequence[Scan], root: Path, choice: Choice) -> list[Scan]:
    """Make one scan of the chosen channels of each case, by the numbers or words of their names.

    Cases that lack a channel, and files whose names do not say which they are, are unfit.

    Raises:
        DataError: no name says which channel it is.
    """
    numbers = choice.numbers
    parts, others = by_word(scans, choice.contrasts) if numbers is None else by_number(scans)
    if numbers is None:
        wanted: Sequence[str] = choice.contrasts
        what = f"none of the words {', '.join(choice.contrasts)} is in its name, which channels= needs"
        todo = "omit channels="
    else:
        known = sorted({part.contrast for part in parts})
        wanted = [contrast_of(number) for number in numbers] or known
        what = "its name does not end in a channel number such as _0000, which channel=all needs"
        todo = "omit channel=all"
    missing = [contrast for contrast in wanted if all(part.contrast != contrast for part in parts)]
    if not parts:
        shown = "CASE_0000, CASE_0001 …" if numbers is not None else f"{', '.join(choice.contrasts)}"
        raise DataError(f"{printable(root)}: has no channels {shown}; {todo}")
    if missing:
        raise DataError(f"{printable(root)}: has no channel {_listed(missing)} in any case (known: {_known(parts)})")
    kept = [scan if scan.unfit else replace(scan, unfit=f"{printable(scan.path)}: {what}") for scan in others]
    return [*join(parts, wanted), *kept]


def join(parts: Iterable[Part], wanted: Sequence[str]) -> list[Scan]:
    """Make one scan of each case; the patient is the case."""
    cases: dict[str, dict[str, Path]] = {}
    for part in parts:
        if part.contrast in wanted:
            cases.setdefault(part.case, {}).setdefault(part.contrast, part.scan.path)
    return [scan_of(case, files, wanted) for case, files in cases.items()]


def resolve(wanted: Sequence[str], known: Sequence[str], where: str) -> list[str]:
    """Return the contrasts of these names, in any case of letters.

    Raises:
        DataError: naming `where`: there is none of such a name.
    """
    exact = {contrast.casefold(): contrast for contrast in known}
    for name in wanted:
        if name.casefold() not in exact:
            hint = did_you_mean(name, known)
            listed = ", ".join(known)
            raise DataError(f"{where}: has no contrast {printable(name)!r}{hint} (known: {printable(listed)})")
    return [exact[name.casefold()] for name in wanted]


def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", re.IGNORECASE)


def _known(parts: Sequence[Part]) -> str:
    return _listed(sorted({part.contrast for part in parts}))


def _listed(contrasts: Sequence[str]) -> str:
    return printable(", ".join(str(int(name)) if name.isdecimal() else name for name in contrasts))
