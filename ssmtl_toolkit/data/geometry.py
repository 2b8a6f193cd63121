"""What readers of any format ask of an affine: can it be used, is it sheared, and from LPS to RAS."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM, NRRD and MetaImage count mm to the left and to the back; `affine = LPS_TO_RAS @ theirs`."""


def usable(affine: NDArray[np.float64]) -> bool:
    """Whether an affine (4, 4) is finite and its three axes span space."""
    volume = np.linalg.norm(affine[:3, :3], axis=0).prod()
    return bool(np.isfinite(affine).all() and volume > 0 and abs(np.linalg.det(affine[:3, :3])) > 1e-6 * volume)


def shear(affine: NDArray[np.float64]) -> str:
    """Say in a line that the axes do not meet at right angles (beyond 0.6 degrees); "" where they do."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(abs(directions.T @ directions - np.eye(3)).max())
    if cosine <= 0.01:
        return ""
    angle = math.degrees(math.acos(min(cosine, 1.0)))
    return f"its axes are sheared: two meet at {angle:.1f} degrees, not 90"


def lengths(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """The distances between voxels along I, J, K, in mm."""
    along = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return along[0], along[1], along[2]
