"""By which mean and deviation slices are normalised: that of each slice, of their scan, or of all scans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data import prepare as preparing
from ssmtl_toolkit.data.pieces import source
from ssmtl_toolkit.data.prepare import Sliced
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.sealed import Sealed
from ssmtl_toolkit.data.slicing import Level, Slicing
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan

_FORMAT = 1  # of the files in the cache


def with_levels(reading: Reading, scans: Iterable[Scan]) -> Slicing:
    """The slicing of `reading` with `--normalise data` replaced by the levels of these scans, all voxels alike.

    What was measured of a scan is kept in the cache. A scan that is decoded is kept in memory, as its slices come next.
    Scans that cannot be read are skipped: preparing them says what is wrong.

    Raises:
        DataError: none can be read, or they have different numbers of channels.
        SsmtlError: the cache cannot be written.
    """
    if reading.slicing.normalise != "data":
        return reading.slicing
    sums: list[NDArray[np.float64]] = []
    for scan in scans:
        reading.waiting.check()
        try:
            sums.append(sums_of(scan, reading))
        except DataError:
            continue
    if not sums or len({len(one) for one in sums}) > 1:
        raise DataError("--normalise data: the scans cannot be read, or have different numbers of channels")
    return reading.slicing.model_copy(update={"normalise": written(_pooled(sums))})


def sums_of(scan: Scan, reading: Reading) -> NDArray[np.float64]:
    """For each channel of a scan the number of its voxels, the sum of their values, and that of the squares: (C, 3).

    They are kept in the cache; raises what reading the scan does.
    """
    known = [source(path, reading.decoded.readers, reading.memo) for path in scan.paths]
    sealed = Sealed.of(reading.cache, "levels", [_FORMAT, known, preparing.REVISION, *reading.slicing.key])

    def make() -> None:
        sliced = Sliced.of(reading.decoded.kept(scan), reading.slicing)
        moments = [[1.0, mean, deviation**2 + mean**2] for mean, deviation in sliced.own_levels]
        sealed.write({}, json.dumps((sliced.voxels[0].size * np.array(moments)).tolist()))

    return np.array(json.loads(sealed.found(make, reading.waiting, f"the levels of {scan.name}")))


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
