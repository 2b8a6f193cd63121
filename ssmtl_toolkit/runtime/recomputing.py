"""Activation checkpointing: blocks of a network keep only their input, and are computed again for the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssmtl_toolkit.engine.backbone import Backbone

_LISTS = (nn.ModuleList, nn.ModuleDict)


def recompute_blocks(backbone: Backbone) -> int:
    """Let the blocks of encoder and decoder compute their activations again in the backward pass; return how many.

    Weights keep their names, gradients their bits, and layers draw (dropout) and count (batch norm) once.
    """
    blocks = [block for part in (backbone.encoder, backbone.decoder) for block in _blocks(part)]
    for block in blocks:
        block.__class__ = _recomputed(type(block))
    return len(blocks)


def _blocks(part: nn.Module) -> Iterator[nn.Module]:
    """The largest modules below `part` that run as a whole; a lone one, and a sequence of blocks, are looked into."""
    inner = [child for child in part.children() if _has_children(child)]
    for child in inner:
        below = list(child.children())
        row = isinstance(child, nn.Sequential) and all(map(_has_children, below))
        if isinstance(child, _LISTS) or row or (len(inner) == 1 and any(map(_has_children, below))):
            yield from _blocks(child)
        else:
            yield child


def _has_children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class with another `forward`: unlike a changed object, it stays right when a network is copied."""
    base: Any = kind

    class Recomputed(base):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            forward = super().forward
            if not torch.is_grad_enabled() or _is_changed(self):
                return forward(*args, **kwargs)
            contexts = lambda: (nullcontext(), _CountingOnce(self))  # noqa: E731
            return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    Recomputed.__name__, Recomputed.__qualname__ = kind.__name__, kind.__qualname__
    return Recomputed


def _is_changed(block: nn.Module) -> bool:
    """Whether layers have another `forward` for this pass (as `moco_v2` does): later they would not have it."""
    return any("forward" in vars(layer) for layer in block.modules())


class _CountingOnce:
    """Meanwhile, buffers may change, such as the statistics of batch norm; then they are as before.

    It can be entered again: each of several backward passes through one forward pass computes its activations anew.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._before: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> None:
        self._before = [(buffer, buffer.clone()) for buffer in self._block.buffers()]

    def __exit__(self, *error: object) -> None:
        for buffer, value in self._before:
            buffer.data.copy_(value)  # by `data`: autograd need not know
        self._before = []
