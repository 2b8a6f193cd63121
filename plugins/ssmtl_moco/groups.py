"""Batch-norm statistics of parts of a batch, in one pass through the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def only_norms_mix(network: nn.Module) -> bool:
    """Whether batch norms are all that lets slices of a batch see each other, as far as layers of torch tell.

    A layer that is not torch's own, or is compiled, may do anything: such a network gets one pass for each part.
    """
    layers = [layer for layer in network.modules() if not any(True for _ in layer.children())]
    known = all(isinstance(layer, _BatchNorm) or type(layer).__module__.startswith("torch.nn.") for layer in layers)
    return known and all(layer._compiled_call_impl is None for layer in network.modules())


@contextmanager
def grouped(network: nn.Module, groups: int) -> Iterator[None]:
    """Meanwhile, every batch norm normalises the parts of its batch one by one, as in a pass for each."""
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    for norm in norms:
        vars(norm)["forward"] = _by_parts(norm.forward, groups)
    try:
        yield
    finally:
        for norm in norms:
            del vars(norm)["forward"]


def _by_parts(forward: Callable[[Tensor], Tensor], groups: int) -> Callable[[Tensor], Tensor]:
    return lambda image: torch.cat([forward(part) for part in image.tensor_split(groups)])
