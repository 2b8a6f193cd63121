"""A signal that reaches any process of a run makes all of them leave, after the same step."""

from __future__ import annotations

import time

import torch
from lightning_fabric import Fabric

from ssmtl_toolkit.runtime.interrupt import interrupts

_EVERY = 1.0  # s between two questions: each makes all processes wait for each other


class Leaving:
    """Asks for signals; several processes ask each other about once a second, at steps that they agree on."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._next = 0
        self._before = 0, time.perf_counter()

    def asked_by(self, step: int) -> int:
        """The number of a signal that has come to any process; 0: none has, or this is no step to ask after."""
        if self.fabric.world_size == 1:
            return interrupts.number
        if step < self._next:
            return 0
        done, since = self._before
        self._before = step, time.perf_counter()
        seconds = (self._before[1] - since) / max(1, step - done)
        told = torch.tensor([interrupts.number, seconds], dtype=torch.float32, device=self.fabric.device)
        number, slowest = self.fabric.all_reduce(told, reduce_op="max").tolist()  # type: ignore[union-attr]
        self._next = step + max(1, int(_EVERY / slowest))
        return int(number)
