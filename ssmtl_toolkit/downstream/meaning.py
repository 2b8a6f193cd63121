"""What the maps of a head for labels mean: one class for each pixel, or classes that overlap, each by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtl_toolkit.data.classes import IGNORE, Classes

_NEVER = -100.0  # the logit of what is not there
_MANY = 8  # maps, from which on they are compared one by one
_LEAST = 1e-6  # a mean of probabilities is kept this far from 0 and 1, where a logit is infinite


class Meaning(ABC):
    """From class indices to what a head learns, and from its maps to probabilities and class indices."""

    maps: int  # how many the head makes

    @property
    @abstractmethod
    def background(self) -> Tensor:
        """What maps show where there is nothing but background: (maps,)."""

    @classmethod
    def of(cls, classes: Classes) -> Meaning:
        """That of these classes."""
        return Overlapping(torch.from_numpy(classes.members)) if classes.overlap else Exclusive(len(classes) + 1)

    @abstractmethod
    def target(self, index: Tensor) -> Tensor:
        """What the head's loss is given for class indices (N, H, W) int64, `IGNORE` where nobody annotated."""

    @abstractmethod
    def chances(self, maps: Tensor) -> Tensor:
        """Probabilities (N, maps, H, W)."""

    @abstractmethod
    def index(self, maps: Tensor, *, chances: bool = False) -> Tensor:
        """The most probable class index (N, H, W) by maps, or by `chances`."""


@dataclass(frozen=True)
class Exclusive(Meaning):
    """One class for each pixel, the background first."""

    maps: int

    @property
    def background(self) -> Tensor:
        return torch.tensor([0.0, *[-torch.inf] * (self.maps - 1)])

    def target(self, index: Tensor) -> Tensor:
        return index

    def chances(self, maps: Tensor) -> Tensor:
        return maps.softmax(dim=1)

    def index(self, maps: Tensor, *, chances: bool = False) -> Tensor:
        return _first_largest(maps)


@dataclass(frozen=True)
class Overlapping(Meaning):
    """A probability of its own for each class; `members` (classes, cells + 1) are those of `Classes`.

    The index is the most probable of those that exist, the classes taken as independent: the one whose classes have
    the largest sum of logits, 0 for the background. If what is more probable than not for each class by itself exists,
    as core within whole, it is that.
    """

    members: Tensor

    @property
    def maps(self) -> int:  # type: ignore[override]
        return len(self.members)

    @property
    def background(self) -> Tensor:
        return torch.full((self.maps,), _NEVER)

    def target(self, index: Tensor) -> Tensor:
        ignored = index == IGNORE
        belongs = self.members.to(index.device)[:, index.masked_fill(ignored, 0)].transpose(0, 1)
        return belongs.long().masked_fill(ignored[:, None], IGNORE)

    def chances(self, maps: Tensor) -> Tensor:
        return maps.sigmoid()

    def index(self, maps: Tensor, *, chances: bool = False) -> Tensor:
        logits = maps.logit(_LEAST) if chances else maps
        members = self.members.to(logits.device, logits.dtype)
        return _first_largest(torch.einsum("ci,nchw->nihw", members, logits))


def _first_largest(maps: Tensor) -> Tensor:
    """Which map is the largest, (N, H, W) int64; of equal ones the first."""
    if maps.device.type != "cpu" or not _MANY <= maps.shape[1] <= 256:
        return maps.max(dim=1).indices  # argmax itself is ten times slower on a CPU
    maps = maps.detach()
    largest, index = maps[:, 0].clone(), torch.zeros(maps[:, 0].shape, dtype=torch.uint8)
    for number in range(1, maps.shape[1]):  # map by map takes half of the time
        index.masked_fill_(maps[:, number] > largest, number)
        torch.maximum(largest, maps[:, number], out=largest)
    return maps.max(dim=1).indices if largest.isnan().any() else index.long()
