"""How the losses of a batch become one, and what they have in common: pairs, draws, gradients where tasks meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.ranks import sum_over_ranks, world
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, TaskOutput
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.features import Feature

Place = Literal["features", "backbone"]
"""Where gradients of tasks are compared: at the last maps that tasks share, or at the backbone's parameters."""


class Balancer(nn.Module):
    """Base of what `BalancerSpec.build` returns: `forward(losses: Mapping[label, scalar], shared)`, a scalar.

    Balanced is each task's weight x loss. State belongs into buffers or parameters: those are saved and resumed.

    Attributes:
        feedback: what `updated` is called with after each update; `change` costs a forward pass more.
        factors: what each weight x loss was multiplied by in the last batch, without gradient, for metrics.jsonl;
            empty where a balancer has nothing to tell.
    """

    feedback: ClassVar[Literal["nothing", "losses", "change"]] = "nothing"
    factors: Mapping[str, Tensor] = {}

    def __call__(self, losses: Mapping[str, Tensor], shared: Shared) -> Tensor:
        total: Tensor = super().__call__(losses, shared)
        return total

    def updated(self, before: Tensor, after: Tensor | None) -> None:
        """Hear the losses of an update's batches: means over the pairs of all batches and ranks, (T,), NaN without any.

        `before` are those of the update, `after` those of the same batches, draws and buffers with the weights that
        came of it (None unless `feedback` is `change`). Both are without the tasks' weights, in the order of the tasks.
        """


class Shared:
    """What a balancer may ask about the batch whose losses it gets. All ranks must ask the same, in one order.

    Attributes:
        seed: equal on all ranks and new for every batch, for random draws.
        first: whether this is the first batch since the weights were last updated.
        pairs: for each task, how many pairs of this rank its loss is a mean over; 0: the loss says nothing.
    """

    def __init__(
        self,
        batch: Batch,
        backbone: Backbone,
        encode: SharedEncoder,
        outputs: Mapping[str, TaskOutput],
        meeting: Feature = "pyramid",
    ) -> None:
        """`meeting`: the maps that all is made of which the tasks that count read."""
        self.seed, self.first = batch.seed, batch.first
        self.pairs = {label: output.pairs for label, output in outputs.items()}
        self._backbone, self._encode, self._meeting = backbone, encode, meeting

    def means(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Means over the pairs of all ranks, (T,) float32 without gradient; NaN where no rank has a pair."""
        means = PairMeans()
        means.add(losses, self.pairs)
        return means.get()

    def gramian(self, losses: Mapping[str, Tensor], at: Place) -> Tensor:
        """Inner products of the gradients of each two losses (means over ranks), (T, T) float32, equal on all ranks.

        At the features the gradients are those at the last maps that all is made of which the tasks read: the
        decoder's where they read nothing else, otherwise all that the encoder hands out, each counted by what reads it
        from there (the representation Z of Sener and Koltun, 2018, section 3.3). At the backbone they are the gradients
        of the encoder's and decoder's parameters, which costs a backward pass for each task.

        Raises:
            UsageError: at the features, and two tasks have read no image in common.
        """
        if at == "backbone":
            return _products(self.backbone_gradients(losses))
        images = self._encode.maps(self._meeting)
        maps = [one for image in images for one in image]
        gradients = [_gradients(loss, maps) for loss in losses.values()]
        _check_common(list(losses), gradients, [len(image) for image in images])
        total = torch.zeros(len(losses), len(losses), device=maps[0].device)
        for one, column in zip(maps, zip(*gradients, strict=True), strict=True):
            total += _products(torch.stack([_flat(gradient, one) for gradient in column]))
        return sum_over_ranks(total) / world() ** 2

    def backbone_gradients(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Gradients of each loss at all parameters of the backbone that are trained, means over ranks, (T, P)."""
        parameters = [p for p in self._backbone.parameters() if p.requires_grad]
        sizes = [parameter.numel() for parameter in parameters]
        rows = torch.zeros(len(losses), sum(sizes), device=parameters[0].device)
        for row, loss in zip(rows, losses.values(), strict=True):
            for part, gradient in zip(row.split(sizes), _gradients(loss, parameters), strict=True):
                if gradient is not None:
                    part.copy_(gradient.detach().flatten())
        return sum_over_ranks(rows) / world() if world() > 1 else rows


class PairMeans:
    """Means of losses over the pairs of some batches and of all ranks; reading them waits for no device."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, losses: Mapping[str, Tensor], pairs: Mapping[str, int]) -> None:
        """Take in the losses of one batch of this rank, and the numbers of pairs that they are means over."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        counts = sent(torch.tensor([float(pairs[label]) for label in losses]), values.device)
        sums = torch.stack([values * counts, counts])
        self._sums = sums if self._sums is None else self._sums + sums

    def get(self) -> Tensor:
        """The means, (T,) float32, equal on all ranks; NaN where there was no pair."""
        assert self._sums is not None
        sums, counts = sum_over_ranks(self._sums)
        means: Tensor = sums / counts
        return means


def _gradients(loss: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Gradients as `backward` would make them, outside autocast, for the graph that it will go through later."""
    if not loss.requires_grad:
        return [None] * len(inputs)
    with torch.autocast(loss.device.type, enabled=False):
        found: Sequence[Tensor | None] = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        return found


def _flat(gradient: Tensor | None, like: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros(like.numel(), device=like.device)
    return gradient.detach().float().flatten()


def _products(rows: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        products: Tensor = rows @ rows.T
        return products


def _check_common(labels: list[str], gradients: list[Sequence[Tensor | None]], sizes: list[int]) -> None:
    """Refuse tasks that read different images: their gradients would be orthogonal whatever the tasks want."""
    image_of = [image for image, size in enumerate(sizes) for _ in range(size)]
    read = [{image for image, gradient in zip(image_of, row, strict=True) if gradient is not None} for row in gradients]
    for one, other in combinations(range(len(labels)), 2):
        if read[one].isdisjoint(read[other]):
            raise UsageError(
                f"tasks {labels[one]!r} and {labels[other]!r} read features of different images, so their gradients "
                f"do not meet there; compare them at the backbone's weights: --balancer mgda:at=backbone"
            )
