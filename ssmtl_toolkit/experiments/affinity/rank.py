"""A score of features that needs no labels: their effective rank."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-7


def effective_rank(features: Tensor) -> float:
    """RankMe of features (n, d): exp of the entropy of their singular values, as shares of their sum.

    Garrido et al. (ICML 2023), equation 1. 1: all features are multiples of one; min(n, d): all directions are equal.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum() + _TINY
    return float(torch.exp(-(shares * shares.log()).sum()))
