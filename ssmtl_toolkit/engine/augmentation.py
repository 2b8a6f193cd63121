"""What an `AugmentationSpec` builds, and how several of them change a batch of slices together.

All draws come from torch's global generator of the CPU, which is seeded for every step: a step of a resumed training
changes its slices as before, and on a GPU as on a CPU (noise is the exception: it is drawn on the device, by torch's
generator there).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.step import Batch, Companion
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.specs import AugmentationSpec, Change, named


class Augmentation:
    """Changes slices in training; override what the spec's `changes` lists. Every slice gets its own draws.

    It changes all slices that it is given, and none in place; the caller picks them, with the probability `p` of the
    spec.
    """

    def place(self, points: Tensor) -> Tensor:
        """Say where the pixels of N slices are taken from.

        `points` (N, H, W, 2) are (x, y), from -1 to 1 between the outer edges of a slice, as `grid_sample` takes them.
        """
        return points

    def values(self, image: Tensor) -> Tensor:
        """Return slices (N, C, H, W) with other values.

        They come normalised, usually each channel of each to mean 0 and variance 1, and need not stay so.
        """
        return image

    def batch(self, image: Tensor, target: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Return slices (N, C, H, W) and their targets, (N, H, W) or (N, C, H, W), with parts of other slices.

        `partner` (N,) says which slice of the batch each is to share with.
        """
        return image, target


def uniform(number: int, low: float, high: float, device: torch.device) -> Tensor:
    """Draw `number` values between `low` and `high` on the CPU, and send them to the device."""
    return sent(torch.empty(number).uniform_(low, high), device)


class Augmenter:
    """Changes batches by a list of augmentations, in its order: places first, all at once, then values, then batches.

    However many augmentations change places, pixels are interpolated only once.
    """

    def __init__(self, specs: Sequence[AugmentationSpec]) -> None:
        self._built: list[tuple[AugmentationSpec, Augmentation]] = []
        for spec in specs:
            with foreign(f"building {named(spec)}"):
                self._built.append((spec, spec.build()))

    def __bool__(self) -> bool:
        return bool(self._built)

    def labelled(self, image: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """Change slices (N, C, H, W) and their labels (N, H, W), or without labels the slices alone.

        Returns:
            The slices, and the labels; without labels the same slices again, as what is to be learned from: then no
            values are changed, for these would be learned. Pixels that come from outside have the value at the edge,
            and the label `IGNORE`.
        """
        points = self._points(image)
        if points is not None:
            image = sampled(image, points)
            target = None if target is None else sampled_labels(target, points)
        if target is None:
            return self._batch(image, image)
        return self._batch(self.other_values(image), target)

    def weak_and_strong(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Two forms of slices (N, C, H, W), in the same places: as they are, and with other values."""
        points = self._points(image)
        weak = image if points is None else sampled(image, points)
        return weak, self.other_values(weak)

    def other_values(self, image: Tensor) -> Tensor:
        """Slices (N, C, H, W) with other values, in their places."""
        return self._changed("values", image)

    def unlabelled(self, batch: Batch) -> Batch:
        """Change the anchors of a pre-training; their companions are changed in place alone, and alike."""
        points = self._points(batch.anchor)
        anchor, companions = batch.anchor, batch.companions
        if points is not None:
            moved: dict[int, Companion] = {}  # several tasks share one object
            anchor = sampled(anchor, points)
            companions = {
                label: {name: self._moved(companion, points, moved) for name, companion in names.items()}
                for label, names in companions.items()
            }
        view = functools.partial(self.view, batch.anchor)
        recoloured = functools.partial(self.other_values, anchor)
        changed = self.other_values(anchor)
        return Batch(changed, companions, batch.position, batch.seed, batch.first, view, recoloured, clean=anchor)

    def with_views(self, batch: Batch) -> Batch:
        """The same slices; the views of them that tasks ask for are changed."""
        view, recoloured = (functools.partial(change, batch.anchor) for change in (self.view, self.other_values))
        return Batch(batch.anchor, batch.companions, batch.position, batch.seed, batch.first, view, recoloured)

    def view(self, image: Tensor) -> Tensor:
        """Slices (N, C, H, W) in other places and with other values."""
        points = self._points(image)
        return self.other_values(image if points is None else sampled(image, points))

    @staticmethod
    def _moved(companion: Companion, points: Tensor, moved: dict[int, Companion]) -> Companion:
        if id(companion) not in moved:
            image = sampled(companion.image, companion.of(points))
            moved[id(companion)] = Companion(image, companion.offsets, companion.rows)
        return moved[id(companion)]

    def _points(self, image: Tensor) -> Tensor | None:
        """Where pixels come from; None: no slice is changed."""
        start = identity(image)
        points = self._changed("place", start)
        return None if points is start else points

    def _changed(self, what: Literal["place", "values"], given: Tensor) -> Tensor:
        """Points (N, H, W, 2) or slices (N, C, H, W) after all augmentations of this sort; `given` if none is chosen.

        Raises:
            SsmtlError: one fails, or returns something of another shape.
        """
        for spec, augmentation in self._of(what):
            chosen = sent(self._chosen(spec, len(given)), given.device)
            if len(chosen):
                old = given[chosen]
                with foreign(named(spec)):
                    new = getattr(augmentation, what)(old)
                    _check_shape(f"{what}()", new, old)
                given = given.index_copy(0, chosen, new.to(given.dtype))
        return given

    def _batch(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Slices and targets, those chosen with parts of others.

        Raises:
            SsmtlError: an augmentation fails, or returns something of another shape.
        """
        for spec, augmentation in self._of("batch"):
            chosen = sent(self._chosen(spec, len(image)), image.device)
            partner = sent(torch.randperm(len(image)), image.device)
            if len(chosen):
                with foreign(named(spec)):
                    mixed, mixed_target = augmentation.batch(image, target, partner)
                    _check_shape("batch()", mixed, image)
                    _check_shape("batch(), of targets,", mixed_target, target)
                image = image.index_copy(0, chosen, mixed[chosen].to(image.dtype))
                target = target.index_copy(0, chosen, mixed_target[chosen].to(target.dtype))
        return image, target

    def _of(self, what: Change) -> list[tuple[AugmentationSpec, Augmentation]]:
        return [(spec, built) for spec, built in self._built if what in spec.changes]

    @staticmethod
    def _chosen(spec: AugmentationSpec, number: int) -> Tensor:
        """The slices that are changed; as many draws, whatever `p` is."""
        return torch.nonzero(torch.rand(number) < spec.p)[:, 0]


def identity(image: Tensor) -> Tensor:
    """Where the pixels of slices (N, C, H, W) are: their centres, (N, H, W, 2)."""
    number, _, height, width = image.shape
    x, y = (torch.arange(n, device=image.device) * 2 / n + (1 / n - 1) for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(number, -1, -1, -1)


def sampled(image: Tensor, points: Tensor) -> Tensor:
    """Slices (N, C, H, W) with their pixels taken from `points`, bilinear; outside, the value at the edge."""
    return F.grid_sample(image, points.to(image.dtype), padding_mode="border", align_corners=False)


def sampled_labels(labels: Tensor, points: Tensor) -> Tensor:
    """Labels (N, H, W) at `points`, each that of the nearest pixel; outside, `IGNORE`."""
    nearest = F.grid_sample(labels[:, None].float(), points, mode="nearest", padding_mode="border", align_corners=False)
    outside = (points.abs() > 1).any(dim=-1)
    return nearest[:, 0].round().to(labels.dtype).masked_fill(outside, IGNORE)


def boxes(number: int, shape: Sequence[int], share: float) -> Tensor:
    """Draw boxes of whole pixels inside images (H, W): masks (number, H, W).

    Areas are drawn evenly from 0 to `share` of an image, ratios of the sides (as shares) from 1 : √2 to √2 : 1.
    """
    cpu = torch.device("cpu")
    area, half = uniform(number, 0, share, cpu), math.log(2) / 2
    ratio = uniform(number, -half, half, cpu).exp()
    height, width = (
        spans(length, side) for length, side in zip(shape, ((area * ratio).sqrt(), (area / ratio).sqrt()), strict=True)
    )
    return height[:, :, None] & width[:, None, :]


def spans(length: int, side: Tensor) -> Tensor:
    """Masks (N, length) of intervals of these lengths, shares of all (N,), anywhere inside."""
    wide = (side.clamp(max=1) * length).floor()[:, None]
    start = (torch.rand(len(side), 1) * (length - wide + 1)).floor()
    at = torch.arange(length)
    return (at >= start) & (at < start + wide)


def _check_shape(returned_by: str, new: Any, old: Tensor) -> None:
    if not isinstance(new, Tensor):
        raise TypeError(f"{returned_by} must return a tensor, not {type(new).__name__}")
    if new.shape != old.shape:
        raise ValueError(f"{returned_by} must return the shape {tuple(old.shape)}, not {tuple(new.shape)}")
