"""Volumes of masks, in ml."""

from __future__ import annotations

import math

import numpy as np
from ssmtl_toolkit.engine.metric import Comparison


def volume_error(comparison: Comparison, tolerance: float) -> float:
    """The difference of both volumes in ml; 0 up to `tolerance`.

    A class that is in only one of truth and prediction needs no rule of its own here: all of its volume is the error.
    What is in neither is never asked for.
    """
    # The masks are (I, J, K), bool. What many metrics need is in the comparison too, computed once for all of them:
    # `counts` of voxels (which would do here), `surfaces`, and `distances` between surface voxels in mm.
    voxels = np.count_nonzero(comparison.predicted) - np.count_nonzero(comparison.truth)
    error = abs(voxels) * math.prod(comparison.spacing) / 1000  # mm³ -> ml
    return error if error > tolerance else 0.0
