"""Balancers that use the losses alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ssmtl_toolkit.engine.balancer import Balancer, Shared
from ssmtl_toolkit.specs import TaskSpec


class Weighing(Balancer):
    """Base class of balancers that know the tasks' weights and floors; (T,) is always in the order of the tasks."""

    def __init__(self, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__()
        self.scale = [task.given_weight for task in tasks.values()]
        self.floor = [task.floor for task in tasks.values()]
        self.labels = list(tasks)
        self.counted = [i for i, weight in enumerate(self.scale) if weight]  # tasks of weight 0 are not balanced

    def scaled(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return weight x loss, (T,)."""
        return torch.stack([weight * losses[label] for label, weight in zip(self.labels, self.scale, strict=True)])

    def above(self, means: Tensor) -> Tensor:
        """Return weight x (loss - floor) of `means` (T,), at least 0; NaN for tasks without pairs or of weight 0."""
        gap = (means - means.new_tensor(self.floor)).clamp(min=0)
        scale = means.new_tensor(self.scale)
        return torch.where(scale > 0, scale * gap, torch.nan)

    def tell(self, weights: Tensor) -> Tensor:
        """Record weights (T,) for the log."""
        self.factors = dict(zip(self.labels, weights.detach(), strict=True))
        return weights


class Fixed(Weighing):
    """Sum of weight x loss over the tasks."""

    def forward(self, losses: Mapping[str, Tensor], shared: Shared) -> Tensor:
        return self.scaled(losses).sum()


class Uncertainty(Weighing):
    """Sum of 1/2 exp(-s) weight (loss - floor) + s/2, with s = log σ² trained as well (Kendall et al., 2018, eq. 7).

    A task without pairs in this batch, or with weight 0, gives its s no gradient.
    """

    def __init__(self, tasks: Mapping[str, TaskSpec]) -> None:
        super().__init__(tasks)
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, losses: Mapping[str, Tensor], shared: Shared) -> Tensor:
        self.tell(0.5 * (-self.log_variance).exp())
        terms = []
        for i, (label, weight) in enumerate(zip(self.labels, self.scale, strict=True)):
            scaled, s = weight * losses[label].float(), self.log_variance[i]
            if weight and shared.pairs[label]:
                terms.append(0.5 * (-s).exp() * (scaled - weight * self.floor[i]) + 0.5 * s)
            else:
                terms.append(scaled + 0 * s)
        return torch.stack(terms).sum()


class Dwa(Weighing):
    """Weights T softmax(r / temperature), r = mean loss of the last window over that of the window before it.

    Losses are measured from their floors (Liu et al., 2019, eq. 7). All weights are 1 until two windows are complete.
    """

    feedback: ClassVar[Literal["nothing", "losses", "change"]] = "losses"
    updates: Tensor
    sums: Tensor
    counts: Tensor
    last: Tensor
    before_last: Tensor

    def __init__(self, tasks: Mapping[str, TaskSpec], window: int, temperature: float) -> None:
        super().__init__(tasks)
        self.window, self.temperature = window, temperature
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        for name in ("sums", "counts", "last", "before_last"):  # 0: not yet known
            self.register_buffer(name, torch.zeros(len(tasks)))

    def forward(self, losses: Mapping[str, Tensor], shared: Shared) -> Tensor:
        known = (self.before_last > 0) & (self.last > 0)
        ratio = torch.where(known, self.last / self.before_last, 1.0)
        counted = ratio.new_tensor(self.scale) > 0
        share = torch.where(counted, ratio / self.temperature, -torch.inf).softmax(dim=0)
        weights = torch.where(counted, len(self.counted) * share, 1.0)
        return (self.tell(weights) * self.scaled(losses)).sum()

    @torch.no_grad()
    def updated(self, before: Tensor, after: Tensor | None) -> None:
        gap = self.above(before)
        present = gap.isfinite()
        self.sums += torch.where(present, gap, 0.0)
        self.counts += present
        self.updates += 1
        full = self.updates % self.window == 0
        mean = torch.where(self.counts > 0, self.sums / self.counts, self.last)
        self.before_last.copy_(torch.where(full, self.last, self.before_last))
        self.last.copy_(torch.where(full, mean, self.last))
        for buffer in (self.sums, self.counts):
            buffer.copy_(torch.where(full, 0.0, buffer))


class Rlw(Weighing):
    """Weights softmax(z), z from N(0, 1), the same on all ranks and for all batches of an update (Lin et al., 2021)."""

    def forward(self, losses: Mapping[str, Tensor], shared: Shared) -> Tensor:
        if shared.first or not self.factors:
            self._drawn = torch.ones(len(losses))
            self._drawn[self.counted] = self._draw(shared.seed, len(self.counted))
        scaled = self.scaled(losses)
        return (self.tell(self._drawn.to(scaled)) * scaled).sum()

    @staticmethod
    def _draw(seed: int, number: int) -> Tensor:
        return torch.randn(number, generator=torch.Generator().manual_seed(seed)).softmax(dim=0)
