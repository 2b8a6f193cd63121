"""FAMO: the decrease of each loss in an update adjusts its task's weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ssmtl_balancers.module import Weighing
from ssmtl_toolkit.engine.balancer import Shared
from ssmtl_toolkit.specs import TaskSpec

_SMALL = 1e-8
_BETA1, _BETA2 = 0.9, 0.999


class Famo(Weighing):
    """Descend c Σ z log(loss - floor), z = softmax(logits), 1/c = Σ z / (loss - floor) (Liu et al., 2023, algorithm 1).

    It is computed as Σ c z / (loss - floor) x loss, which has the same gradient; the losses in the weights are means
    over ranks, so all ranks have equal weights. After an update Adam moves the logits against the decrease of each
    log loss, measured on the same batches. A task without pairs, or with weight 0, is skipped, so each task has its
    own count of Adam steps.
    """

    feedback: ClassVar[Literal["nothing", "losses", "change"]] = "change"
    logits: Tensor
    mean: Tensor
    square: Tensor
    updates: Tensor

    def __init__(self, tasks: Mapping[str, TaskSpec], lr: float, decay: float) -> None:
        super().__init__(tasks)
        self.lr, self.decay = lr, decay
        for name in ("logits", "mean", "square", "updates"):
            self.register_buffer(name, torch.zeros(len(tasks)))

    def forward(self, losses: Mapping[str, Tensor], shared: Shared) -> Tensor:
        gap = self.above(shared.means(losses))
        present = gap.isfinite()
        share = torch.where(present, self.logits.softmax(dim=0) / (gap + _SMALL), 0.0)
        weights = torch.where(present, share / share.sum(), 1.0)
        return (self.tell(weights) * self.scaled(losses)).sum()

    @torch.no_grad()
    def updated(self, before: Tensor, after: Tensor | None) -> None:
        assert after is not None
        decrease = (self.above(before) + _SMALL).log() - (self.above(after) + _SMALL).log()
        present = decrease.isfinite()
        z = torch.where(present, self.logits, -torch.inf).softmax(dim=0).nan_to_num(0.0)
        decrease = torch.where(present, decrease, 0.0)
        self._adam(z * (decrease - (z * decrease).sum()), present)

    def _adam(self, gradient: Tensor, present: Tensor) -> None:
        """Take an Adam step for the tasks that are `present`; its moments are buffers, thus saved and resumed."""
        gradient = gradient + self.decay * self.logits
        self.updates += present
        self.mean.lerp_(gradient, (1 - _BETA1) * present)
        self.square.lerp_(gradient.square(), (1 - _BETA2) * present)
        mean = self.mean / (1 - _BETA1**self.updates)
        square = self.square / (1 - _BETA2**self.updates)
        self.logits -= torch.where(present, self.lr * mean / (square.sqrt() + _SMALL), 0.0)
