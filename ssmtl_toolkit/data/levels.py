"""By which mean and deviation slices are normalised: that of each slice, of their scan, or of all scans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.prepare import Sliced
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import Level, Slicing
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan


def with_levels(
    slicing: Slicing, scans: Iterable[Scan], readers: Readers, check: Callable[[], None] = lambda: None
) -> Slicing:
    """The same slicing with `data` replaced by the levels of these scans, all voxels alike; `check` may interrupt.

    Scans that cannot be read are skipped: preparing them says what is wrong.

    Raises:
        DataError: none can be read, or they have different numbers of channels.
    """
    if slicing.normalise != "data":
        return slicing
    sums: list[NDArray[np.float64]] = []
    for scan in scans:
        check()
        try:
            sliced = Sliced.of(readers.read_scan(scan, slicing.volume), slicing)
        except DataError:
            continue
        moments = [[1.0, mean, deviation**2 + mean**2] for mean, deviation in sliced.own_levels]
        sums.append(sliced.voxels[0].size * np.array(moments))
    if not sums or len({len(one) for one in sums}) > 1:
        raise DataError("--normalise data: the scans cannot be read, or have different numbers of channels")
    return slicing.model_copy(update={"normalise": written(_pooled(sums))})


def _pooled(sums: Sequence[NDArray[np.float64]]) -> list[Level]:
    number, first, second = np.sum(sums, axis=0).T
    mean = first / number
    return list(zip(mean.tolist(), np.sqrt(np.maximum(second / number - mean**2, 0)).tolist(), strict=True))


def written(levels: Iterable[Level]) -> str:
    """Levels as an option: MEAN/SD of each channel."""
    return "+".join(f"{_digits(mean)}/{_digits(deviation)}" for mean, deviation in levels)


def _digits(number: float) -> str:
    """Six digits that count, without an exponent: its + would part channels."""
    return np.format_float_positional(number, precision=6, unique=False, fractional=False, trim="-")
