"""A plugin file with a task that on one rank fails, ends or hangs in one of its forward passes."""

import os
import signal
import sys
import time
from typing import ClassVar

from torch import distributed, nn

import ssmtl_toolkit
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.specs import TaskSpec

HOW = {
    "raise": lambda: int("x"),
    "sys.exit": lambda: sys.exit(0),
    "exit": lambda: os._exit(7),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda: time.sleep(10_000),
}


class OddRank(TaskSpec):
    """Behaves oddly on one rank."""

    name: ClassVar[str] = "odd_rank"
    needs: ClassVar = frozenset({"pooled"})

    how: str = "raise"
    on: int = 1

    def companions(self, spacing):
        return {}

    def build(self, backbone):
        return Odd(self, backbone.pooled_channels)


class Odd(nn.Module):
    def __init__(self, spec, channels):
        super().__init__()
        self.spec, self.linear, self.calls = spec, nn.Linear(channels, 1), 0

    def forward(self, step):
        self.calls += 1
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        if self.calls == 12 and rank == self.spec.on:
            HOW[self.spec.how]()
        pooled = step.features().pooled
        return TaskOutput(self.linear(pooled).square().mean(), {}, pairs=len(pooled))


@ssmtl_toolkit.hookimpl
def ssmtl_tasks():
    return [OddRank]
