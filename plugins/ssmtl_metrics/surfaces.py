"""HD95 and surface Dice, both from the distances between surface voxels (by MONAI) that a comparison has once."""

from __future__ import annotations

import numpy as np

from ssmtl_toolkit.engine.metric import Comparison


def hd95(comparison: Comparison) -> float | None:
    """The 95th percentile of the distances in mm, the larger of both ways; the scan's diagonal if one mask is empty."""
    if comparison.counts.absent:
        return None
    if comparison.counts.penalised:
        return comparison.diagonal
    return max(float(np.quantile(one_way, 0.95)) for one_way in comparison.distances)


def surface_dice(comparison: Comparison, tolerance: float) -> float | None:
    """The share of surface voxels within `tolerance` mm of the other surface; 0 if one mask is empty."""
    if comparison.counts.absent:
        return None
    if comparison.counts.penalised:
        return 0.0
    return float((np.concatenate(comparison.distances) <= tolerance).mean())
