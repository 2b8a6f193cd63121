"""The loss of VICReg on expanded pooled features of two views."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.step import Step, TaskOutput
from ssmtl_vicreg import VICReg as VICRegSpec

_TARGET, _EPSILON = 1.0, 1e-4  # γ and ε


class VICReg(nn.Module):
    """λ s(Z, Z') + μ (v(Z) + v(Z')) + ν (c(Z) + c(Z')) (Bardes, Ponce and LeCun, ICLR 2022, arXiv:2105.04906, eq. 6)
    for expanded features Z, Z' (N, D) of the anchors and of another view of them:

        s = mean of (Z - Z')², over slices and features as in algorithm 1 (eq. 5 sums over features)
        v = mean over features of max(0, γ - √(variance + ε)), γ = 1 (eq. 1 and 2)
        c = 1/D Σ over i != j of covariance(i, j)² (eq. 3 and 4)

    The expander, three layers with batch norm, sees both views at once. Ranks do not share variances.
    """

    def __init__(self, channels: int, spec: VICRegSpec) -> None:
        super().__init__()
        self.spec = spec
        dim = spec.dim
        self.expand = nn.Sequential(
            *(nn.Linear(channels, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)),
            *(nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)),
            nn.Linear(dim, dim),
        )

    def forward(self, step: Step) -> TaskOutput:
        pooled = torch.cat([step.features().pooled, step.encode(step.view()).pooled])
        number = len(step.anchor)
        expanded = self.expand(pooled).float()
        if number < 2:
            return TaskOutput.nothing(expanded)
        with torch.autocast(expanded.device.type, enabled=False):  # a product of float32 would become bf16
            one, other = expanded.split(number)
            invariance = F.mse_loss(one, other)
            variance = lack_of_variance(one) + lack_of_variance(other)
            covariance = covariance_of(one) + covariance_of(other)
        spec = self.spec
        loss = spec.invariance * invariance + spec.variance * variance + spec.covariance * covariance
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        constant = loss.new_full((), 2 * spec.variance * (_TARGET - _EPSILON**0.5))
        metrics = {"constant": constant, **{name: term.detach() for name, term in terms.items()}}
        return TaskOutput(loss, {**metrics, "spread": spread(pooled.detach().float())}, pairs=number)


def lack_of_variance(features: Tensor) -> Tensor:
    """Mean over features (N, D) of how far their standard deviation is below γ."""
    return (_TARGET - (features.var(dim=0) + _EPSILON).sqrt()).relu().mean()


def covariance_of(features: Tensor) -> Tensor:
    """Sum of the squared covariances of each two features (N, D), divided by D."""
    centred = features - features.mean(dim=0)
    square = (centred.T @ centred / (len(features) - 1)).square()  # torch.cov reads numbers back to the host
    return (square.sum() - square.diagonal().sum()) / features.shape[1]


def spread(features: Tensor) -> Tensor:
    """Standard deviation of the pooled features (N, C) at unit length, times √C: 1 is healthy, 0 collapsed."""
    return F.normalize(features).std(dim=0, correction=0).mean() * math.sqrt(features.shape[1])
