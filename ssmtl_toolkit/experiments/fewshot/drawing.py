"""Which patients and slices are labelled in each draw: nested, those of a small budget are among those of a larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ssmtl_toolkit.config import Budget
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted

Place = tuple[str, int]
"""A scan's name and one of its slices."""


def default_budgets(patients: int) -> tuple[Budget, ...]:
    """Powers of two, up to all patients."""
    return tuple(Budget(2**power) for power in range(patients.bit_length()))


def draw_patients(patients: Sequence[str], seed: int, draw: int) -> list[str]:
    """All training patients in the order in which this draw labels them."""
    order = np.random.default_rng(step_seed(seed, Stream.SCANS, draw)).permutation(len(patients))
    return [sorted(patients)[i] for i in order]


def draw_slices(
    order: Sequence[str], scans: Sequence[Scan], slices: Mapping[str, Sequence[int]], seed: int, draw: int
) -> list[Place]:
    """All slices to label in the order of this draw: a slice of each patient in turn, of each of its scans in turn.

    Args:
        order: the patients, as `draw_patients` returns them.
        scans: their scans.
        slices: by the name of each scan, those among which are drawn.
        seed: the seed of the comparison.
        draw: which draw it is.
    """
    queues = []
    for number, patient in enumerate(sorted(order)):
        generator = np.random.default_rng(step_seed(seed, Stream.SLICES, draw, number))
        own = [
            [(scan.name, i) for i in generator.permutation(slices[scan.name])]
            for scan in scans
            if scan.patient == patient
        ]
        queues.append((patient, _in_turn([own[i] for i in generator.permutation(len(own))])))
    by_patient = dict(queues)
    return [(name, int(i)) for name, i in _in_turn([by_patient[patient] for patient in order])]


def _in_turn(lists: Sequence[Sequence[Place]]) -> list[Place]:
    """The first of each list, the second of each, and so on."""
    longest = max(map(len, lists), default=0)
    return [items[i] for i in range(longest) for items in lists if i < len(items)]


def check_budgets(budgets: Sequence[Budget], patients: int, slices: int) -> None:
    """Refuse a budget of more than there is to train on.

    Raises:
        UsageError: naming it.
    """
    for budget in budgets:
        most = patients if budget.unit == "patients" else slices
        if budget.number > most:
            raise UsageError(
                f"--budget {budget}: {counted(most, budget.unit[:-1])} can be trained on; give a smaller one, or fewer "
                f"--test-scans and --validation-scans"
            )
