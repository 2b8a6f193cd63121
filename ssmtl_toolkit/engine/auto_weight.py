"""Weights that are measured in the first steps of a training: `weight=auto`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssmtl_toolkit.engine.balancer import Shared
from ssmtl_toolkit.specs import TaskSpec

MEASURED = frozenset({1, 2, 4, 8, 16, 24, 32, 38, 44, 50})
"""The steps, counted from 1, in which gradients are measured; each takes a backward pass more for every task."""


class AutoWeights(nn.Module):
    """Scale the losses of tasks with `weight=auto` so that their gradients at the backbone are as large as the others'.

    The factor of such a task is the mean norm of weight x gradient over the tasks with a weight that is given, or over
    all if none is, divided by the norm of its own gradient. Each measurement of a norm is averaged with what was known
    before it, geometrically; what is known after the last of `MEASURED` stays.

    Attributes:
        norms: of each task's gradient, (T,); 0: not yet known.
        factors: of each task's loss, (T,); 1 for a weight that is given, and where nothing is known yet.
    """

    norms: Tensor
    factors: Tensor

    def __init__(self, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        self._floors = {label: task.floor for label, task in tasks.items()}
        self._auto = [task.weight == "auto" for task in tasks.values()]
        given = [0.0 if task.weight == "auto" else task.given_weight for task in tasks.values()]
        self._reference = given if any(given) else [float(auto) for auto in self._auto]
        self.register_buffer("norms", torch.zeros(len(tasks)))
        self.register_buffer("factors", torch.ones(len(tasks)))

    def __call__(self, losses: Mapping[str, Tensor], shared: Shared, measure: bool) -> dict[str, Tensor]:
        scaled: dict[str, Tensor] = super().__call__(losses, shared, measure)
        return scaled

    def forward(self, losses: Mapping[str, Tensor], shared: Shared, measure: bool) -> dict[str, Tensor]:
        """The losses for the balancer, scaled around their floors, so that these stay; `measure`: set factors first."""
        if measure:
            self._measure(losses, shared)
        scaled = dict(losses)
        for (label, floor), auto, factor in zip(self._floors.items(), self._auto, self.factors.unbind(), strict=True):
            if auto:
                scaled[label] = floor + factor * (losses[label] - floor)
        return scaled

    def values(self) -> dict[str, float]:
        """The factors of the tasks with `weight=auto`, by label."""
        factors = zip(self._floors, self._auto, self.factors.tolist(), strict=True)
        return {label: factor for label, auto, factor in factors if auto}

    @torch.no_grad()
    def _measure(self, losses: Mapping[str, Tensor], shared: Shared) -> None:
        """Take in the gradients of these losses; one that is 0, for want of pairs, or not finite does not count."""
        norms = shared.backbone_gradients(losses).norm(dim=1)
        usable = norms.isfinite() & (norms > 0)
        smoothed = torch.where(self.norms > 0, (self.norms * norms).sqrt(), norms)
        self.norms.copy_(torch.where(usable, smoothed, self.norms))
        weights = self.norms.new_tensor(self._reference)
        counted = (weights > 0) & (self.norms > 0)
        factors = (weights * self.norms)[counted].mean() / self.norms  # of nothing: NaN; of an unknown norm: infinite
        auto = torch.tensor(self._auto, device=factors.device)
        self.factors.copy_(torch.where(auto & factors.isfinite(), factors, self.factors))
