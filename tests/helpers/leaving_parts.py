"""Parts that try to end the process at a moment of one's choice, as code does that was a script once.

`AT` is where: build, forward, backward, metrics …; `HOW` is which exception.
"""

import os
import sys
from typing import ClassVar

import click
import torch
from pydantic import Field
from torch import nn

from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.balancer import Balancer
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, DatasetSpec, HeadSpec, ReaderSpec, Scan, TaskSpec


class Odd(BaseException):
    """What no library should raise."""


class MuteError(Exception):
    """Its text is made by code that fails, too."""

    def __str__(self):
        sys.exit(0)

    __repr__ = __str__


class MuteOfOursError(MuteError, SsmtlError):
    """The same, of a kind that is shown as it is."""


def leave(how):
    if how == "exit":
        sys.exit(0)
    if how == "folder":
        os.chdir("/")
        return
    raise {
        "keyboard": KeyboardInterrupt(),
        "click": click.exceptions.Exit(0),
        "eof": EOFError("ended"),
        "odd": Odd("odd\x1b[31m"),
        "generator": GeneratorExit(),
        "key": KeyError("missing"),
        "mute": MuteError(),
        "ours": MuteOfOursError(),
        "usage": UsageError("odd options"),
        "click usage": click.UsageError("odd options"),
    }[how]


class Leaving(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, how):
        ctx.how = how
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        leave(ctx.how)


class LeavingTask(TaskSpec):
    """Leaves."""

    name: ClassVar[str] = "leaving_task"
    needs = frozenset({"pooled"})

    at: str = Field("forward", description="Where.")
    how: str = Field("exit", description="How.")

    def companions(self, spacing):
        if self.at == "companions":
            leave(self.how)
        return {}

    def remarks(self, anchors):
        if self.at == "remarks":
            leave(self.how)
        return ()

    def build(self, backbone):
        if self.at == "build":
            leave(self.how)
        return LeavingTaskModule(self, backbone.pooled_channels)


class LeavingTaskModule(nn.Module):
    def __init__(self, spec, channels):
        super().__init__()
        self.spec, self.steps, self.judge = spec, 0, nn.Linear(channels, 1)

    def forward(self, step):
        self.steps += 1
        if self.spec.at == "forward" and self.steps == 2:
            leave(self.spec.how)
        if self.spec.at == "late" and self.steps == 2:
            self.register_buffer("late", torch.zeros(3))
        terms = self.judge(step.features().pooled)
        if self.spec.at == "backward":
            terms = Leaving.apply(terms, self.spec.how)
        return TaskOutput(terms.square().mean())


class LeavingBackbone(BackboneSpec):
    """A convolution."""

    name: ClassVar[str] = "leaving_backbone"

    at: str = Field("forward", description="Where.")
    how: str = Field("exit", description="How.")

    def build(self, in_channels):
        if self.at == "build":
            leave(self.how)
        return Backbone(LeavingEncoder(self, in_channels), Last(), in_channels, 4, 4)


class LeavingEncoder(nn.Module):
    def __init__(self, spec, channels):
        super().__init__()
        self.spec, self.steps, self.convolve = spec, 0, nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, image):
        self.steps += 1
        first = {"forward": 1, "later": 5}.get(self.spec.at)
        if self.steps == first or (self.spec.at == "eval" and not self.training):
            leave(self.spec.how)
        return [self.convolve(image)]


class Last(nn.Module):
    def forward(self, maps):
        return maps[-1]


class LeavingBalancer(BalancerSpec):
    """A sum."""

    name: ClassVar[str] = "leaving_balancer"

    at: str = Field("forward", description="Where.")
    how: str = Field("exit", description="How.")

    def build(self, tasks):
        if self.at == "build":
            leave(self.how)
        return LeavingBalancerModule(self)


class LeavingBalancerModule(Balancer):
    feedback = "losses"

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def forward(self, losses, shared):
        if self.spec.at == "forward":
            leave(self.spec.how)
        return torch.stack(list(losses.values())).sum()

    def updated(self, before, after):
        if self.spec.at == "updated":
            leave(self.spec.how)


class LeavingHead(HeadSpec):
    """A convolution."""

    name: ClassVar[str] = "leaving_head"

    at: str = Field("forward", description="Where.")
    how: str = Field("exit", description="How.")

    def build(self, backbone, classes):
        if self.at == "build":
            leave(self.how)
        return LeavingHeadModule(self, backbone.dense_channels, classes)


class LeavingHeadModule(Head):
    def __init__(self, spec, channels, classes):
        super().__init__()
        self.spec, self.classify = spec, nn.Conv2d(channels, classes, 1)

    def degrade(self, image):
        if self.spec.at == "degrade":
            leave(self.spec.how)
        return image

    def forward(self, features):
        if self.spec.at == "forward" or (self.spec.at == "test" and not self.training):
            leave(self.spec.how)
        return self.classify(features.dense)

    def loss(self, maps, target):
        if self.spec.at == "loss":
            leave(self.spec.how)
        if self.spec.at == "late":
            self.register_buffer("late", torch.zeros(3))
        return nn.functional.cross_entropy(maps.float(), target, ignore_index=255)


class LeavingReader(ReaderSpec):
    """Of files .bye."""

    name: ClassVar[str] = "leaving_reader"
    at: ClassVar[str] = "read"

    def matches(self, path):
        if self.at == "matches":
            leave("exit")
        return path.suffix == ".bye"

    def files(self, path):
        if self.at == "files":
            leave("exit")
        return (path,)

    def read(self, path, volume=None):
        leave("exit")


class LeavingDataset(DatasetSpec):
    """Nothing."""

    name: ClassVar[str] = "leaving_dataset"

    at: str = Field("scans", description="Where.")
    how: str = Field("exit", description="How.")

    def scans(self, cache, readers):
        if self.at == "scans":
            leave(self.how)
        return [Scan(self.at, "a", "a")]

    def suggested(self):
        if self.at == "suggested":
            leave(self.how)
        return {}
