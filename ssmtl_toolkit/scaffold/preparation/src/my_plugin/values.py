"""How slices get other values, and how these are taken back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ssmtl_toolkit.data.preparation import Stage
from ssmtl_toolkit.data.volume import Stack


def compressed(stack: Stack, scale: float) -> Stage:
    """Compress values x to scale asinh(x / scale)."""
    slices = scale * np.arcsinh(np.asarray(stack.slices, np.float32) / scale)

    # For heads that give images: from what the network gives to the scan's own units.
    def undo(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(scale * np.sinh(np.clip(image / scale, -50, 50)), np.float32)

    # To crop, pad or resample return Stage.of_places(stack, lattice) instead: labels and predictions will follow.
    return Stage.of_values(stack, slices, undo)
