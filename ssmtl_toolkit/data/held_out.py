"""Which scans a pre-training does not train on, so that their loss tells learning from memorising: whole patients."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ssmtl_toolkit.data.patients import likely_pattern
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.data.split import with_patients
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted

FEWEST = 8  # scans from which on some are held out without being asked for
_SHARE = 0.05  # of the scans
_LARGEST = 0.25  # share of the scans that a single patient may take away without being asked for


def choose_held_out(scans: Sequence[Scan], number: int | Literal["auto"], seed: int) -> list[int]:
    """Draw the scans to hold out, whole patients, and return their indices in order.

    Args:
        scans: all that can be trained on.
        number: how many to hold out; fewer where patients would have to be parted, more where the smallest patient has
            more. `auto`: a twentieth, at least one, from 8 scans on; none if every patient has more than a quarter.
        seed: that of the run.

    Raises:
        UsageError: so many cannot be held out, for none would be left to train on.
    """
    patients = likely_patients(scans)
    sizes = Counter(patients)
    wanted = _wanted(len(scans)) if number == "auto" else number
    if wanted and number != "auto" and (wanted >= len(scans) or len(sizes) == 1):
        raise UsageError(
            f"--held-out {number}: there are {counted(len(scans), 'scan')} of {counted(len(sizes), 'patient')}, which "
            f"would leave none to train on; ask for fewer, or for 0"
        )
    if not wanted or len(sizes) == 1:
        return []
    names = sorted(sizes)
    order = [names[i] for i in np.random.default_rng(step_seed(seed, Stream.HELD_OUT)).permutation(len(names))]
    taken = _fitting(order, sizes, wanted) or [min(order, key=lambda patient: sizes[patient])]
    if number == "auto" and sizes[taken[0]] > max(wanted, _LARGEST * len(scans)):
        return []
    return [i for i, patient in enumerate(patients) if patient in taken]


def _wanted(scans: int) -> int:
    return max(1, round(_SHARE * scans)) if scans >= FEWEST else 0


def _fitting(order: Sequence[str], sizes: Counter[str], wanted: int) -> list[str]:
    """Take patients in order, but those that would make it more than `wanted` scans."""
    taken: list[str] = []
    for patient in order:
        if sum(sizes[name] for name in taken) + sizes[patient] <= wanted:
            taken.append(patient)
    return taken


def likely_patients(scans: Sequence[Scan]) -> list[str]:
    """Whose each scan is; scans that may be of one patient, going by their names, are taken as one's."""
    joined, _ = with_patients(scans, None)
    pattern = likely_pattern(joined)
    matches = [re.search(pattern, scan.patient) if pattern else None for scan in joined]
    return [match[1] if match else scan.patient for match, scan in zip(matches, joined, strict=True)]
