"""How the losses are combined into one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ssmtl_toolkit.engine.balancer import Balancer, Shared
from torch import Tensor


class GeometricMean(Balancer):
    """Sum of weight x log(loss - floor + least) over the tasks.

    Its gradient is that of each loss divided by the loss itself, so that all losses pull equally hard, whatever their
    units. Losses such as a negative cosine go below zero, where there is no logarithm: each loss is measured from its
    floor, the lowest value that it can have.
    """

    # State that changes from update to update, but is not trained, belongs in a buffer: those are saved and resumed.

    def __init__(self, exponents: Mapping[str, float], floors: Mapping[str, float], least: float) -> None:
        super().__init__()
        self.exponents = dict(exponents)
        self.floors = dict(floors)
        self.least = least

    def forward(self, losses: Mapping[str, Tensor], shared: Shared) -> Tensor:
        terms, factors = [], {}
        for label, loss in losses.items():
            height = loss.float() - self.floors[label] + self.least
            factors[label] = 1 / height.detach()
            if shared.pairs[label]:
                terms.append(self.exponents[label] * torch.log(height))
            else:
                # A task without a pair in this batch does not count. Its loss, a zero, stays in the graph: in training
                # on several devices each device waits for the gradients of all parameters.
                terms.append(loss)
        self.factors = factors  # the toolkit logs them: what each weight x loss was multiplied by
        return torch.stack(terms).sum()
