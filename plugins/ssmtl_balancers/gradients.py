"""Balancers that weigh tasks by the inner products of their gradients, with TorchJD's weightings."""

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

_RIDGE = 1e-6  # of a cosine: of several equally good weightings take the least


class FromGramian(Weighing):
    """Base: sum of w x weight x loss, w found from the Gramian of the weighted losses, without gradient.

    So one backward pass remains, and a task's own layers see w too, which Adam hardly notices. Each batch is balanced
    by itself. A task whose weight or gradient is 0 has no say and keeps w = 1, as all have where a gradient is no
    number.
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
                found = self.weigh(some / some.diagonal().max(), shared.seed)
                weights[torch.tensor(self.counted)[active]] = found.float()
        return (self.tell(weights.to(scaled)) * scaled).sum()

    @abstractmethod
    def weigh(self, gramian: Tensor, seed: int) -> Tensor:
        """Weights (T,) from the Gramian (T, T) of gradients that are not 0, float64 on the CPU, its largest entry 1."""


class PcGrad(FromGramian):
    """Project each gradient off those of the others that it goes against, in random order (Yu et al., 2020, alg. 1)."""

    def weigh(self, gramian: Tensor, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # TorchJD draws the order from the global generator
            torch.default_generator.manual_seed(seed)
            return PCGradWeighting()(gramian)


class UpGrad(FromGramian):
    """Sum of the gradients, each projected to where none of the losses rises (Quinton and Rey, 2024, eq. 4).

    Each counts whole and not 1/T, as the authors have it: without conflict this is the weighted sum.
    """

    def weigh(self, gramian: Tensor, seed: int) -> Tensor:
        return UPGradWeighting(torch.ones(len(gramian), dtype=gramian.dtype), NonNegative())(gramian)


class Mgda(FromGramian):
    """The mixture of the gradients that is shortest, by Frank-Wolfe (Sener and Koltun, 2018, algorithm 2)."""

    def weigh(self, gramian: Tensor, seed: int) -> Tensor:
        return MGDAWeighting()(gramian)


class NonNegative(DualConeProjector):
    """Projection onto the dual cone by non-negative least squares, for TorchJD's own wants quadprog, which is GPL.

    It minimises v'Gv over v >= u. With v = u + x and G = BB' this is |B'x + B'u| over x >= 0. Tasks are scaled to
    gradients of length 1 first, so that one which is a thousand times smaller is not lost.
    """

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:  # noqa: N803 - TorchJD's names
        lengths = G.diagonal().sqrt()
        cosines = G / torch.outer(lengths, lengths) + _RIDGE * torch.eye(len(G), dtype=G.dtype)
        values, vectors = np.linalg.eigh(cosines.numpy())
        root = np.sqrt(values.clip(min=0))[:, None] * vectors.T
        rows = [u + nnls(root, -root @ u)[0] for u in (U * lengths).numpy()]
        return torch.from_numpy(np.stack(rows)) / lengths
