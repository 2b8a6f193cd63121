"""What a network makes of a fixed image: saved with the weights, and compared when they are loaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmtl_toolkit.engine.backbone import Backbone, Features
from ssmtl_toolkit.features import PARTS, Part
from ssmtl_toolkit.foreign import foreign

_NUMBERS = 64


def fingerprint(backbone: Backbone, size: int, parts: Iterable[Part] = tuple(PARTS)) -> dict[str, Any]:
    """Run a copy of `backbone` on the CPU, in eval mode, on one image of fixed noise, size x size.

    Returns:
        `size`, and for each of the `parts` numbers picked evenly from the feature that shows what it computes.
    """
    network = copy.deepcopy(backbone).cpu().float().eval()
    noise = np.random.Generator(np.random.Philox(key=0)).standard_normal((1, backbone.in_channels, size, size))
    with foreign("the backbone, tried on an image in eval mode,"), torch.inference_mode():
        features: Features = network(torch.from_numpy(noise.astype(np.float32)))
        shown: dict[str, Any] = {PARTS[part]: _some(features.tensors(PARTS[part])[0]) for part in parts}
        return {"size": size, **shown}


def difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """The largest difference of two fingerprints, relative to the largest number in the saved one."""
    worst = 0.0
    for name in PARTS.values():
        if name in saved:
            before, after = np.array(saved[name]), np.array(now[name])
            if before.shape != after.shape:
                return math.inf
            scale = max(float(np.abs(before).max()), 1e-12)
            worst = max(worst, float(np.abs(before - after).max()) / scale)
    return worst


def _some(values: Tensor) -> list[float]:
    flat = values.flatten()
    picked = torch.linspace(0, len(flat) - 1, min(_NUMBERS, len(flat)), dtype=torch.float64).long()
    return [float(x) for x in flat[picked]]
