"""The moving average of a network's weights, which predicts better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """m a + (1 - m) w after every update, over parameters and batch statistics; whole numbers are the latest.

    m is `decay`, but in the first steps less: (1 + n) / (10 + n) after n updates, so that the average does not hold
    the random weights of the start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self._followed = model.state_dict()  # these are the model's own tensors: training changes them in place
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._followed.items()}
        self._real = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model, after `step` updates of it."""
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = ([tensors[name] for name in self._real] for tensors in (self.tensors, self._followed))
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for name in self.tensors.keys() - set(self._real):
            self.tensors[name].copy_(self._followed[name])

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what was saved of `tensors`."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the average as its weights, in the block."""
        own = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self.model.load_state_dict(own)
