"""What a pretext task sees of one training step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ssmtl_toolkit.engine.backbone import Backbone, Features
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.features import FEATURES, Feature
from ssmtl_toolkit.text import did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Position:
    """Where slices lie, on their device.

    Attributes:
        index: (N,) int64, how many slices lie before each in its sequence (the slices of its scan along one axis).
        count: (N,) int64, the length of that sequence.
        spacing: (N,) float32, the distance between its slices in mm; of frames in time in ms, 0 if unknown.
        patient: (N,) int64, equal for slices of one patient, for sampling and masking. It is counted anew for each run,
            from 0 in the order of the scans: no identity, and not to be learned from.
    """

    index: Tensor
    count: Tensor
    spacing: Tensor
    patient: Tensor

    @classmethod
    def in_order(cls, number: int, device: torch.device | None = None) -> Position:
        """That of the slices of one sequence of this length, in order and 1 mm apart."""
        index = torch.arange(number, device=device)
        return cls(index, torch.full_like(index, number), torch.ones(number, device=device), torch.zeros_like(index))


@dataclass(frozen=True)
class Companion:
    """Slices that go with the anchors. An anchor whose companion would lie outside its scan has none.

    A companion is of its anchor's sequence: its index there is `companion.of(step.position.index) + companion.offsets`,
    and length, spacing and patient are the anchor's.

    Attributes:
        image: (M, C, H, W), the companions that exist, M <= N.
        offsets: (M,) int64, how many slices behind its anchor each lies (before it: negative).
        rows: (M,) int64, the anchors they belong to; None when all N have one.
    """

    image: Tensor
    offsets: Tensor
    rows: Tensor | None = None

    def of(self, anchors: Tensor) -> Tensor:
        """Pick from `anchors` (N, …) the rows (M, …) that have this companion."""
        return anchors if self.rows is None else anchors[self.rows]

    def at(self, rows: Tensor, wanted: Tensor) -> Companion:
        """Those of the anchors `wanted`, in their order; `rows` are the anchors of all of these."""
        place = (wanted[:, None] == rows[None]).int().argmax(dim=1) if len(wanted) else wanted
        return Companion(self.image[place], self.offsets[place], wanted)


class TaskOutput(NamedTuple):
    """What a task gives back.

    Attributes:
        loss: scalar, mean over the pairs; connected to the graph even when there are none.
        metrics: scalars to log beside it, means over the pairs, without gradient.
        pairs: how many pairs (or images) they are means over; logs weight by it.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = {}
    pairs: int = 1

    @classmethod
    def nothing(cls, tensor: Tensor) -> TaskOutput:
        """What a task gives for a batch without any pair: a loss of 0 that says nothing.

        It hangs on the graph of `tensor`, which is computed with the task's own weights: all of them get a gradient,
        of 0. In training on several devices each waits for the gradients of all.
        """
        return cls(tensor.sum() * 0, {}, pairs=0)


class Pictures(NamedTuple):
    """How a task's answers to some anchors are drawn: what its module's `pictures(step)` gives, if it has that.

    It is called in eval mode and without gradient, for the pictures of a report. The anchors are drawn before them.

    Attributes:
        images: (M, C, H, W) by title, such as the target and the reconstruction, on the scale of the anchors.
        errors: (M, C, H, W) by title, drawn by their size, in colour.
        rows: (M,) int64, the anchors they belong to; None: all N.
    """

    images: Mapping[str, Tensor]
    errors: Mapping[str, Tensor] = {}
    rows: Tensor | None = None


class Batch:
    """One batch on the device; not a dataclass, for Fabric copies those tensor by tensor.

    Attributes:
        anchor: (N, C, H, W), float32, each slice normalised by itself.
        companions: per task label, per companion name; tasks that ask for the same slices share one object.
        position: where the anchors lie; where none is given they are all slices of one sequence, in order.
        seed: a number that is equal on all ranks and differs from step to step, for common random draws.
        first: whether this is the first batch since the weights were last updated (gradient accumulation).
        clean: (N, C, H, W), the anchors in the same places, with the values that they had before augmentation.
    """

    def __init__(
        self,
        anchor: Tensor,
        companions: Mapping[str, Mapping[str, Companion]],
        position: Position | None = None,
        seed: int = 0,
        first: bool = True,
        view: Callable[[], Tensor] | None = None,
        recoloured: Callable[[], Tensor] | None = None,
        clean: Tensor | None = None,
    ) -> None:
        """Anchors changed by other draws of the run's augmentations are given by `view`, and those of which only the
        values are by `recoloured`; None, as `clean`: as they are.
        """
        self.anchor, self.companions, self.seed, self.first = anchor, companions, seed, first
        self.view, self.recoloured = view or (lambda: anchor), recoloured or (lambda: anchor)
        self.clean = anchor if clean is None else clean
        self.position = position or Position.in_order(len(anchor), anchor.device)


class Step:
    """The anchors, companions and features of one step, as one task sees them.

    Draws from torch's global generator are reproducible: it is seeded anew for every step and rank.

    Attributes:
        anchor: (N, C, H, W), float32, each slice normalised by itself.
        position: where the anchors lie in their sequences: a `Position`.
        seed: a number that is equal on all ranks and differs from step to step, for common random draws.
        first: whether this is the first step since the weights were last updated (gradient accumulation).
        encode: `encode(image)` gives the features of other images, one forward for all tasks.
        clean: (N, C, H, W), the anchors in the same places, with the values that they had before --augment: what a task
            learns that gives the slice back.
    """

    def __init__(
        self,
        batch: Batch,
        encode: Callable[[Tensor], Features],
        companions: Mapping[str, Companion],
        made: dict[Hashable, Any] | None = None,
    ) -> None:
        """`made` holds what tasks have in common (`common`): one for all tasks of a forward pass."""
        self.anchor = batch.anchor
        self.clean = batch.clean
        self.position = batch.position
        self.seed = batch.seed
        self.first = batch.first
        self.encode = encode
        self._companions = companions
        self._view, self._recoloured = batch.view, batch.recoloured
        self._made: dict[Hashable, Any] = {} if made is None else made

    def view(self, *, moved: bool = True) -> Tensor:
        """Another view of the anchors, (N, C, H, W): the slices changed by other draws of the run's augmentations.

        With `moved=False` only their values are drawn anew: each pixel shows the same place as in the anchor. Every
        call draws. Where nothing is augmented they are the anchors themselves.
        """
        return self._view() if moved else self._recoloured()

    def common(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make()` gives, made once for all tasks of the step that ask with an equal key.

        So tasks share random draws, and by `encode` of an image that they share one forward pass. Name in the key all
        that the result depends on; an instance of a frozen dataclass is equal only to those of its class.
        """
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def companion(self, name: str) -> Companion:
        """The companion slices that the task's spec named so in `companions()`.

        Raises:
            SsmtlError: it named none so.
        """
        if name not in self._companions:
            named = ", ".join(self._companions) or "none"
            raise SsmtlError(
                f"there is no companion {name!r}{did_you_mean(name, self._companions)} (the spec names {named})"
            )
        return self._companions[name]

    def together(self, *names: str) -> tuple[Companion, ...]:
        """The companions `names` of those anchors that have all of them: (M, …) each, row by row of one anchor."""
        found = [self.companion(name) for name in names]
        if all(companion.rows is None for companion in found):
            return tuple(found)
        every = torch.arange(len(self.anchor), device=self.anchor.device)
        rows = [every if companion.rows is None else companion.rows for companion in found]
        common = every[torch.stack([torch.isin(every, row) for row in rows]).all(dim=0)]
        return tuple(companion.at(row, common) for companion, row in zip(found, rows, strict=True))

    def features(self) -> Features:
        """Features of the anchors, one forward for all tasks."""
        return self.encode(self.anchor)


class SharedEncoder:
    """Runs the backbone once per image tensor, however many tasks ask; with and without gradient are two runs."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._done: dict[tuple[int, bool], tuple[Tensor, Features]] = {}

    def __call__(self, image: Tensor) -> Features:
        key = (id(image), torch.is_grad_enabled())
        if key not in self._done:
            self._done[key] = (
                image,
                self._backbone(image),
            )  # keeping the image keeps its id from being reused
        return self._done[key][1]

    def made(self) -> list[Tensor]:
        """All features of all images, as far as they were read."""
        done = [features for _, features in self._done.values()]
        return [
            one
            for features in done
            for feature in FEATURES.keys() & vars(features)
            for one in features.tensors(feature)
        ]

    def maps(self, feature: Feature) -> list[list[Tensor]]:
        """For each image that was encoded with gradient, the maps of this feature, as far as they were read."""
        return [features.computed(feature) for (_, gradient), (_, features) in self._done.items() if gradient]
