"""The modules of the bundled balancers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssmtl_toolkit.engine.multitask import Balancer


class Fixed(Balancer):
    """Sum of weight x loss over the tasks."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[label] * loss for label, loss in losses.items()]).sum()
