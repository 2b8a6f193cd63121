"""Balancers that weight tasks by the inner products of their gradients, with TorchJD's weightings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import nnls  # type: ignore[attr-defined]
from torch import Tensor
from torchjd.aggregation import MGDAWeighting, PCGradWeighting, UPGradWeighting
from torchjd.linalg import DualConeProjector, PSDMatrix

from ssmtl_balancers.module import Weighing
from ssmtl_toolkit.engine.balancer import Place, Shared
from ssmtl_toolkit.specs import TaskSpec

_RIDGE = 1e-6  # added to the cosines: selects the smallest of several equally good weightings


class FromGramian(Weighing):
    """Base class: sum of w x weight x loss, where w comes from the Gramian of the weighted losses, without gradient.

    This leaves one backward pass; a task's own layers see w too, which Adam hardly notices. Each batch is balanced
    separately. A task whose weight or gradient is 0 does not affect w and keeps w = 1, as do all tasks if a gradient
    is not finite.
    """

    def __init__(self, tasks: Mapping[str, TaskSpec], at: Place) -> None:
        super().__init__(tasks)
        self.at = at

    def forward(self, losses: Mapping[str, Tensor], shared: Shared) -> Tensor:
        scaled = self.scaled(losses)
        weights = torch.ones(len(scaled))
        weighted = {self.labels[i]: self.scale[i] * losses[self.labels[i]] for i in self.counted}
        if torch.is_grad_enabled() and weighted:
            gramian = shared.gramian(weighted, self.at).double().cpu()
            active = gramian.diagonal() > 0
            if gramian.isfinite().all() and active.any():
                some = gramian[active][:, active]
                w = self.weigh(some / some.diagonal().max(), shared.seed)
                weights[torch.tensor(self.counted)[active]] = w.float()
        return (self.tell(weights.to(scaled)) * scaled).sum()

    @abstractmethod
    def weigh(self, gramian: Tensor, seed: int) -> Tensor:
        """Return weights (T,) for the Gramian (T, T) of nonzero gradients: float64, on the CPU, largest entry 1."""


class PcGrad(FromGramian):
    """Remove from each gradient what conflicts with the others, in random order (Yu et al., 2020, algorithm 1)."""

    def weigh(self, gramian: Tensor, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # TorchJD draws the order from the global generator
            torch.default_generator.manual_seed(seed)
            return PCGradWeighting()(gramian)


class UpGrad(FromGramian):
    """Sum of the gradients, each projected so that no loss increases (Quinton and Rey, 2024, eq. 4).

    Each counts fully, not by 1/T as in the paper: without conflict this is the weighted sum.
    """

    def weigh(self, gramian: Tensor, seed: int) -> Tensor:
        return UPGradWeighting(torch.ones(len(gramian), dtype=gramian.dtype), NonNegative())(gramian)


class Mgda(FromGramian):
    """The shortest convex combination of the gradients, by Frank-Wolfe (Sener and Koltun, 2018, algorithm 2)."""

    def weigh(self, gramian: Tensor, seed: int) -> Tensor:
        return MGDAWeighting()(gramian)


class NonNegative(DualConeProjector):
    """Projection onto the dual cone by non-negative least squares; TorchJD's own needs quadprog, which is GPL.

    It minimises v'Gv over v >= u. With v = u + x and G = BB' this is |B'x + B'u| over x >= 0. Tasks are scaled to
    gradients of length 1 first, so that a gradient a thousand times smaller is not lost.
    """

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:  # noqa: N803 - TorchJD's names
        lengths = G.diagonal().sqrt()
        cosines = G / torch.outer(lengths, lengths) + _RIDGE * torch.eye(len(G), dtype=G.dtype)
        values, vectors = np.linalg.eigh(cosines.numpy())
        root = np.sqrt(values.clip(min=0))[:, None] * vectors.T
        rows = [u + nnls(root, -root @ u)[0] for u in (U * lengths).numpy()]
        return torch.from_numpy(np.stack(rows)) / lengths
