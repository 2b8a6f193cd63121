"""Tells by the names of scans that several which are taken as patients of their own may be of one patient."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from ssmtl_toolkit.specs import Scan

_NUMBERS = re.compile(r"\d+")
_CONTRAST = re.compile(r"t[12](w|n|f|c|ce|gd)?|pdw?|flair|dwi|adc|swi|ct|cta|mra?|pet|ed|es|lge|c0|de", re.IGNORECASE)
_GROUPS = re.compile(
    r"(site|cent(er|re)|hospital|scanner|vendor|batch|fold|part|subset|group|set|dataset|data|split|cohort|study|year|"
    r"vol|volume|dis[ck]|dir|folder|chunk|shard|train|test|val|week|task|phase)[-_ ]?\d*",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"(.+)_000\d", re.DOTALL)


def likely_pattern(scans: Sequence[Scan]) -> str:
    """The --patient expression that keeps scans together which look like one patient's; else "".

    Only scans whose patients are taken from their names are looked at: what a table or BIDS says is right.
    """
    if not all(scan.name.startswith(scan.patient) for scan in scans):
        return ""
    patients = sorted({scan.patient for scan in scans})
    return _by_folder(patients) or _by_channel(patients)


def suggestion(scans: Sequence[Scan]) -> str:
    """A note with that expression, and what it would change; "" if there is none."""
    patients = sorted({scan.patient for scan in scans})
    pattern = likely_pattern(scans)
    if not pattern:
        return ""
    together: dict[str, list[str]] = defaultdict(list)
    for patient in patients:
        match = re.search(pattern, patient)
        together[match[1] if match else patient].append(patient)
    first, second, *_ = next(found for found in together.values() if len(found) > 1)
    return (
        f"{first} and {second} look like one patient, but the scans are taken as {len(patients)} patients; "
        f"--patient '{pattern}' keeps those together ({len(together)} patients), --patient '(.+)' says that each scan "
        f"is a patient; it is an option of data split and finetune"
    )


def _by_folder(names: Sequence[str]) -> str:
    """An expression for the first level of folders that are named for patients, each with scans of one."""
    for depth in range(max(name.count("/") for name in names) if names else 0):
        folders: dict[str, list[str]] = defaultdict(list)
        for name in names:
            parts = name.split("/")
            if len(parts) > depth + 1:
                folders["/".join(parts[: depth + 1])].append("/".join(parts[depth + 1 :]))
        if _are_patients(folders):
            deeper = ["", "(?:/[^/]+)?"][depth] if depth < 2 else f"(?:/[^/]+){{0,{depth}}}"
            return f"^([^/]+{deeper})"
    return ""


def _are_patients(folders: dict[str, list[str]]) -> bool:
    """Whether folders seem to be a patient each: named like their files or like each other, or with the same files."""
    several = {folder: inside for folder, inside in folders.items() if len(inside) > 1}
    called = [folder.rpartition("/")[2] for folder in folders]
    if len(folders) < 2 or not several or any(_GROUPS.fullmatch(name) or _CONTRAST.fullmatch(name) for name in called):
        return False
    own = all(
        file.rpartition("/")[2].startswith(folder.rpartition("/")[2])
        for folder, inside in several.items()
        for file in inside
    )
    numbered = len({_NUMBERS.sub("", name) for name in called}) == 1 and any(map(str.isalpha, "".join(called)))
    return own or numbered or _have_same(folders, several)


def _have_same(folders: dict[str, list[str]], several: dict[str, list[str]]) -> bool:
    """Whether the files of each folder differ in a word, such as T1 and T2, and most are in other folders, too."""
    if any(_is_numbered(inside) for inside in several.values()):
        return False
    count: dict[str, int] = defaultdict(int)
    for inside in folders.values():
        for file in inside:
            count[file] += 1
    shared = sum(number for number in count.values() if number > 1)
    return shared >= sum(count.values()) / 2


def _is_numbered(files: Sequence[str]) -> bool:
    """Whether files are told apart by numbers only, as cases are; T1 and T2 are words."""
    words = [_CONTRAST.sub(lambda m: m[0].replace("1", "i").replace("2", "j"), file) for file in files]
    return len({_NUMBERS.sub("", word) for word in words}) < len(words)


def _by_channel(names: Sequence[str]) -> str:
    """An expression for nnU-Net's names, CASE_0000, CASE_0001, where cases have several channels."""
    matches = [_CHANNEL.fullmatch(name) for name in names]
    cases = [match[1] for match in matches if match]
    several = 1 < len(set(cases)) <= 0.75 * len(names)
    return r"^(.+)_\d{4}$" if several and len(cases) == len(names) else ""
