"""Seeds of everything random: made of whole numbers, one stream for each purpose."""

from __future__ import annotations

import hashlib
from enum import IntEnum


class Stream(IntEnum):
    """What is drawn: draws of two streams are independent, whatever their seeds."""

    SPLIT = 1
    """Which patients are trained on, validated on and tested on."""
    SCANS = 2
    """Which of the labelled scans a repetition trains on."""
    SLICES = 3
    """Which of their slices."""
    WEIGHTS = 4
    """The weights that a fine-tuning starts from."""
    TRAINING = 5
    """The order of its batches, and what head and network draw."""
    VALIDATION = 6
    """What heads draw in validation: the same at every check."""
    TEST = 7
    """What heads draw in the test: the same for all networks."""
    HELD_OUT = 8
    """Which scans a pre-training does not train on, and on which slices their loss is watched."""
    PROBE = 9
    """On which labelled patients, slices and pixels a pre-training is probed."""
    PATIENTS = 10
    """Of which patients a batch holds slices, and their order."""


def step_seed(*parts: int) -> int:
    """A 63-bit seed from whole numbers, such as (seed, step, rank) or (seed, stream)."""
    numbers = tuple(map(int, parts))
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1
