"""Who is trained on, stopped by and tested on: always whole patients, written down and read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssmtl_toolkit.data.patients import suggestion
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted, listed, printable

PARTS = ("train", "validation", "test")
Slices = Mapping[str, tuple[int, ...]]
"""Scan name -> its slices, counted from 0 in the order of the cut (axial: upwards)."""


@dataclass(frozen=True)
class Split:
    """Patients of each part.

    Attributes:
        train, validation, test: patients, none of them twice.
        pattern: the regex that made patients of scan names, if there was one.
        slices: for each repetition the training slices; empty: they are drawn.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    pattern: str | None = None
    slices: tuple[Slices, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse a patient on two sides."""
        for i, one in enumerate(PARTS):
            for other in PARTS[i + 1 :]:
                if both := sorted(set(getattr(self, one)) & set(getattr(self, other))):
                    raise DataError(f"patient {both[0]!r} is in {one} and in {other} ({len(both)} such); keep to one")

    def of(self, scans: Sequence[Scan], part: str) -> list[Scan]:
        """The scans of one part."""
        patients = set(getattr(self, part))
        return [scan for scan in scans if scan.patient in patients]

    def to_json(self) -> dict[str, Any]:
        """Return what split.json holds."""
        return {
            "patient": self.pattern,
            **{part: list(getattr(self, part)) for part in PARTS},
            "slices": [{name: list(rows) for name, rows in drawn.items()} for drawn in self.slices],
        }

    @classmethod
    def read(cls, file: Path) -> Split:
        """Read a split.json.

        Raises:
            UsageError: the file is missing, or a list of folds.
            DataError: it is not one, or a patient is on two sides.
        """
        if not file.is_file():
            raise UsageError(f"{printable(file)}: no such file; make one by ssmtl data split")
        try:
            given = read_json(file)
            if isinstance(given, list) and given:
                raise UsageError(
                    f"{printable(file)}: is a list of folds, as nnU-Net's splits_final.json; choose one by --fold 0, "
                    f"or make a split of it: ssmtl data split DATA --split {printable(file)} --fold 0 --out split.json"
                )
            parts = {part: tuple(_strings(given.get(part, []))) for part in PARTS}
            slices = tuple({name: tuple(map(int, rows)) for name, rows in s.items()} for s in given.get("slices") or [])
            if not any(parts.values()) or given.keys() - {*PARTS, "patient", "slices"}:
                raise ValueError(f"its keys are {', '.join(given)}")
            return cls(**parts, pattern=given.get("patient"), slices=slices)
        except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise DataError(
                f"{printable(file)}: is not a split ({error}); expected lists of patients named train, validation, test"
            ) from None
        except DataError as error:
            raise DataError(f"{printable(file)}: {error}") from None


def _strings(given: Any) -> Iterable[str]:
    if not (isinstance(given, list) and all(isinstance(item, str) for item in given)):
        raise ValueError(f"{given!r} is not a list of names")
    return given


def with_patients(scans: Sequence[Scan], pattern: str | None) -> tuple[list[Scan], list[str]]:
    """Say whose each scan is: by the regex, else as the dataset says, else by names that differ in a last word only.

    Where names look as if scans of one patient were still apart, a note says by which regex to keep them together.

    Returns:
        The scans, and what a user should know about the rule.

    Raises:
        UsageError: the regex does not match a name.
    """
    if pattern is not None:
        return [replace(scan, patient=_matched(scan.name, pattern)) for scan in scans], []
    apart = list(scans), ([hint] if (hint := suggestion(scans)) else [])
    if not scans or any(scan.patient != scan.name for scan in scans):
        return apart
    stems = [_STEM.fullmatch(scan.name) for scan in scans]
    named = [stem[1] for stem in stems if stem]
    if len(named) < len(scans) or len(set(named)) > 0.75 * len(scans):
        return apart
    patients = sorted(set(named))
    first = [scan.name for scan, stem in zip(scans, named, strict=True) if stem == patients[0]]
    note = (
        f"by their names, the {len(scans)} scans are taken as {len(patients)} patients ({' and '.join(first[:3])} as "
        f"one); --patient '(.+)' if each is a patient"
    )
    joined = [replace(scan, patient=stem) for scan, stem in zip(scans, named, strict=True)]
    return joined, [note, *([more] if (more := suggestion(joined)) else [])]


_STEM = re.compile(
    r"(.*[A-Za-z0-9])[-_. ]([A-Za-z]{1,12}[0-9]?|[Tt][12][A-Za-z]{1,3})", re.DOTALL
)  # 7_ED, p7-T1, 7-t1n


def part_by_patient(scan: Scan, parts: Mapping[str, str], pattern: str | None) -> str | None:
    """The part of the scan's patient, of whom it may have another name than the labelled scans give.

    A scan is a patient's if the data set or the expression says so, or if its name begins with the patient's, followed
    by no letter or digit. A scan too many that is kept away does little harm, a test patient that is learned from does.
    """
    match = re.search(pattern, scan.name) if pattern else None
    names = {scan.patient, scan.name, *([match[1] if match.re.groups else match[0]] if match else [])}
    for patient, part in parts.items():
        if patient in names or re.match(rf"{re.escape(patient)}[^A-Za-z0-9]", scan.name):
            return part
    return None


def _matched(name: str, pattern: str) -> str:
    match = re.search(pattern, name)
    found = match and (match[1] if match.re.groups else match[0])
    if not found:
        raise UsageError(f"--patient {pattern!r} finds no patient in the scan name {name!r}; fix the expression")
    return found


def make(scans: Sequence[Scan], test: int | None, validation: int, seed: int, pattern: str | None = None) -> Split:
    """Draw patients until there are `test` and `validation` scans (a fifth of the patients for None), the rest train.

    Raises:
        UsageError: nothing would be left to train on.
    """
    patients = sorted({scan.patient for scan in scans})
    order = np.random.default_rng(step_seed(seed, Stream.SPLIT)).permutation(len(patients))
    count = {patient: sum(scan.patient == patient for scan in scans) for patient in patients}
    left = [patients[i] for i in order]
    taken = left[: max(1, round(len(left) / 5))] if test is None else _until(left, count, test)
    left = [patient for patient in left if patient not in set(taken)]
    stopping = _until(left, count, validation)
    left = [patient for patient in left if patient not in set(stopping)]
    if not left:
        raise UsageError(
            f"of {counted(len(scans), 'labelled scan')} of {counted(len(patients), 'patient')}, {test or 'a fifth'} "
            f"for the test and {validation} for validation leave none to train on; ask for fewer"
        )
    return Split(tuple(sorted(left)), tuple(sorted(stopping)), tuple(sorted(taken)), pattern)


def fitting(scans: int, train: int | None, validation: int, test: int | None) -> int | None:
    """How many of so many scans to test on: `test`, or in the same proportion to `train` where they are too few."""
    if test is None or train is None or train + validation + test <= scans:
        return test
    return max(1, (scans - validation) * test // (train + test))


def in_order(
    scans: Sequence[Scan],
    order: Sequence[str],
    train: int | None,
    validation: int,
    test: int | None,
    pattern: str | None = None,
) -> Split:
    """Take patients in a given order, those that are there: the first train, the next validate, the others test.

    Raises:
        DataError: none would be left to test on.
    """
    there = {scan.patient for scan in scans}
    patients = [patient for patient in order if patient in there]
    if train is None:
        train = len(patients) - validation - (test or max(1, round(len(patients) / 5)))
    rest = patients[train + validation :]
    if train < 1 or not rest:
        raise DataError(
            f"has {len(patients)} of the {len(order)} patients that the experiment names, too few for {max(train, 1)} "
            f"to train on and others to test on"
        )
    chosen = rest if test is None else rest[:test]
    return Split(tuple(patients[:train]), tuple(patients[train : train + validation]), tuple(chosen), pattern)


def _until(patients: Sequence[str], count: Mapping[str, int], scans: int) -> list[str]:
    taken: list[str] = []
    for patient in patients:
        if sum(count[p] for p in taken) >= scans:
            break
        taken.append(patient)
    return taken


def check_known(split: Split, scans: Sequence[Scan], file: Path) -> None:
    """Refuse a split whose patients are not those of the scans."""
    known = {scan.patient for scan in scans}
    missing = sorted({p for part in PARTS for p in getattr(split, part)} - known)
    if missing:
        unknown, ours = (listed(map(printable, names), 5) for names in (missing, sorted(known)))
        raise DataError(
            f"{printable(file)}: {len(missing)} patients have no labelled scan ({unknown}); is it of other data, or "
            f"does --patient differ? (known: {ours})"
        )


def choose(number: int | None, among: Sequence[Any], *key: int) -> list[Any]:
    """Draw `number` of `among` without repetition, in their order; all for None or where there are fewer."""
    if number is None or number >= len(among):
        return list(among)
    drawn = np.random.default_rng(step_seed(*key)).choice(len(among), number, replace=False)
    return [among[i] for i in sorted(drawn)]
