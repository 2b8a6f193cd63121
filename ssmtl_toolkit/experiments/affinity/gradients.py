"""Gradients of losses at shared weights: how alike they are, and what a step along one of them does to the losses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

STEP = 1e-4
"""The length of a lookahead's step, as a share of the norm of the weights."""


def flat_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a scalar at all these parameters, (P,) float32; 0 where it does not depend on them."""
    if not loss.requires_grad:
        return torch.zeros(sum(parameter.numel() for parameter in parameters), device=parameters[0].device)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.detach().float().flatten() for gradient in found])


def cosines(gradients: Tensor) -> Tensor:
    """Cosines of the angles between the rows of (n, P), (n, n); NaN of a gradient that is 0."""
    rows = gradients.double()
    return (rows @ rows.T) / torch.outer(rows.norm(dim=1), rows.norm(dim=1))


@contextlib.contextmanager
def stepped(parameters: Sequence[nn.Parameter], gradient: Tensor, share: float = STEP) -> Iterator[None]:
    """Meanwhile, the parameters are a step of `share` of their norm farther against `gradient` (P,)."""
    before = [parameter.detach().clone() for parameter in parameters]
    norm = torch.cat([values.flatten() for values in before]).norm()
    step = gradient * (share * norm / gradient.norm())
    try:
        with torch.no_grad():
            for parameter, part in zip(parameters, step.split([p.numel() for p in parameters]), strict=True):
                parameter.sub_(part.view_as(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, before, strict=True):
                parameter.copy_(values)


def lookahead(losses: Callable[[], Tensor], parameters: Sequence[nn.Parameter], gradients: Tensor) -> Tensor:
    """By how much of itself each of T losses falls in a step against each of n gradients, (n, T).

    1 - L_j(after) / L_j(before), equation 1 of Fifty et al. (NeurIPS 2021), but for the length of the step: it is a
    share of the norm of the weights, so that tasks whose losses differ in scale can be compared.

    Args:
        losses: computes all losses (T,), above 0, with the parameters as they are; all else must be equal each time.
        parameters: what is stepped.
        gradients: (n, P); NaN comes of one that is 0.
    """
    with torch.no_grad():
        before = losses().double()
        rows = []
        for gradient in gradients:
            with stepped(parameters, gradient):
                rows.append(1 - losses().double() / before)
    return torch.stack(rows)
