"""Cross-validation: nnU-Net's splits_final.json, a list of folds, each with the cases to train on and to score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted, listed, printable

_SHOWN = 5


@dataclass(frozen=True)
class Folds:
    """The folds of a file: for each the cases to train on, and those to score."""

    file: Path
    folds: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]

    @classmethod
    def read(cls, file: Path) -> Folds:
        """Read a splits_final.json.

        Raises:
            UsageError: the file is missing, or it is a split without folds.
            DataError: it is something else.
        """
        if not file.is_file():
            raise UsageError(f"{printable(file)}: no such file; make one by ssmtl data split --folds 5")
        try:
            content = read_json(file)
            if isinstance(content, dict):
                raise UsageError(f"{printable(file)}: is a split, not a list of folds; omit --fold")
            folds = tuple((_names(fold["train"]), _names(fold["val"])) for fold in content)
            if not folds:
                raise ValueError("it is empty")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{printable(file)}: is no list of folds ({type(error).__name__}: {error}); expected nnU-Net's "
                f"[{{'train': [case, …], 'val': [case, …]}}, …]"
            ) from None
        return cls(file, folds)

    @classmethod
    def of(cls, content: Sequence[Mapping[str, Sequence[str]]], file: Path) -> Folds:
        """Take what `make_folds` returns, which is written to `file`."""
        return cls(file, tuple((tuple(fold["train"]), tuple(fold["val"])) for fold in content))

    def split(self, number: int, scans: Sequence[Scan], pattern: str | None = None) -> Split:
        """Return a fold as a split of these scans: its patients of `val` are those of the test.

        Cases are scans by their names or, if no scan is called so, patients.

        Raises:
            UsageError: there is no such fold.
            DataError: a case is none of the scans, or a patient is on both sides.
        """
        if number >= len(self.folds):
            raise UsageError(
                f"--fold {number}: {printable(self.file)} holds {counted(len(self.folds), 'fold')}, 0 to "
                f"{len(self.folds) - 1}"
            )
        train, val = (self._patients(cases, scans) for cases in self.folds[number])
        try:
            return Split(train, (), val, pattern)
        except DataError as error:
            raise DataError(f"{printable(self.file)}: fold {number}: {error}") from None

    def splits(self, scans: Sequence[Scan], pattern: str | None = None) -> list[Split]:
        """Return all folds as splits of these scans.

        Raises:
            DataError: as `split`, or a patient would be scored twice.
        """
        splits = [self.split(number, scans, pattern) for number in range(len(self.folds))]
        scored: dict[str, int] = {}
        for number, split in enumerate(splits):
            for patient in split.test:
                if patient in scored:
                    raise DataError(
                        f"{printable(self.file)}: patient {patient!r} is scored in fold {scored[patient]} and in fold "
                        f"{number}; a cross-validation scores each patient once: fix the list, or choose one by --fold"
                    )
                scored[patient] = number
        return splits

    def to_json(self) -> list[dict[str, list[str]]]:
        """Return what splits_final.json holds."""
        return [{"train": list(train), "val": list(val)} for train, val in self.folds]

    def _patients(self, cases: Sequence[str], scans: Sequence[Scan]) -> tuple[str, ...]:
        patient_of = {scan.patient: scan.patient for scan in scans} | {scan.name: scan.patient for scan in scans}
        if missing := [case for case in cases if case not in patient_of]:
            unknown = listed(map(printable, missing), _SHOWN)
            known = listed((printable(scan.name) for scan in scans), _SHOWN)
            raise DataError(
                f"{printable(self.file)}: {counted(len(missing), 'case')} without a labelled scan ({unknown}); is "
                f"it of other data? (known: {known})"
            )
        return tuple(sorted({patient_of[case] for case in cases}))


def make_folds(scans: Sequence[Scan], number: int, seed: int) -> list[dict[str, list[str]]]:
    """Return what splits_final.json holds: each patient's scans are scored in one fold, and trained on in the others.

    Raises:
        UsageError: there are fewer patients than folds.
    """
    patients = sorted({scan.patient for scan in scans})
    if number > len(patients):
        raise UsageError(f"--folds {number}: there are {counted(len(patients), 'patient')}; ask for fewer folds")
    order = np.random.default_rng(step_seed(seed, Stream.SPLIT)).permutation(len(patients))
    folds = []
    for part in np.array_split(order, number):
        scored = {patients[i] for i in part}
        folds.append(
            {
                "train": sorted(scan.name for scan in scans if scan.patient not in scored),
                "val": sorted(scan.name for scan in scans if scan.patient in scored),
            }
        )
    return folds


def _names(given: Any) -> tuple[str, ...]:
    if not (isinstance(given, list) and given and all(isinstance(item, str) for item in given)):
        raise ValueError(f"{given!r:.100} is not a list of names")
    return tuple(given)
