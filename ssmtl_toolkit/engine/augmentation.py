"""What an `AugmentationSpec` builds, and how several of them change a batch of slices together.

All draws come from torch's global generator of the CPU, which is seeded for every step: a step of a resumed training
changes its slices as the first one did, and on a GPU as on a CPU (noise apart, which is drawn where it is added).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.engine.step import Batch, Companion
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.specs import AugmentationSpec


class Augmentation:
    """Changes slices in training; override what it changes. Every slice gets its own draws.

    All slices of a batch are changed: whether one is, with the probability `p` of the spec, is decided by the caller.
    """

    def place(self, points: Tensor) -> Tensor:
        """Say where the pixels of N slices are taken from.

        `points` (N, H, W, 2) are (x, y), from -1 to 1 between the outer edges of a slice, as `grid_sample` takes them.
        """
        return points

    def values(self, image: Tensor) -> Tensor:
        """Return slices (N, C, H, W) with other values; they come with mean 0 and variance 1 and need not keep it."""
        return image

    def batch(self, image: Tensor, target: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Return slices (N, C, H, W) and their targets, (N, H, W) or (N, C, H, W), with parts of other slices.

        `partner` (N,) says which slice of the batch each is to share with.
        """
        return image, target


def uniform(number: int, low: float, high: float, device: torch.device) -> Tensor:
    """Draw `number` values between `low` and `high` on the CPU, and send them to the device."""
    return torch.empty(number).uniform_(low, high).to(device)


class Augmenter:
    """Changes batches by a list of augmentations, in its order: places first, all at once, then values, then batches.

    However many augmentations change places, pixels are interpolated only once.
    """

    def __init__(self, specs: Sequence[AugmentationSpec]) -> None:
        self._built: list[tuple[AugmentationSpec, Augmentation]] = []
        for spec in specs:
            with foreign(f"building augmentation {str(spec)!r}"):
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
        return self._batch(self._values(image), target)

    def weak_and_strong(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Two forms of slices (N, C, H, W), in the same places: as they are, and with other values."""
        points = self._points(image)
        weak = image if points is None else sampled(image, points)
        return weak, self._values(weak)

    def other_values(self, image: Tensor) -> Tensor:
        """Slices (N, C, H, W) with other values, in their places."""
        return self._values(image)

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
        return Batch(self._values(anchor), companions, batch.position, batch.seed, batch.first)

    @staticmethod
    def _moved(companion: Companion, points: Tensor, moved: dict[int, Companion]) -> Companion:
        if id(companion) not in moved:
            image = sampled(companion.image, companion.of(points))
            moved[id(companion)] = Companion(image, companion.offsets, companion.rows)
        return moved[id(companion)]

    def _points(self, image: Tensor) -> Tensor | None:
        """Where pixels come from; None: no slice is changed."""
        start = points = identity(image)
        for spec, augmentation in self._changing("place"):
            chosen = self._chosen(spec, len(image))
            if len(chosen):
                rows = chosen.to(points.device)
                points = points.index_copy(0, rows, _tried(spec, augmentation.place, points[rows]))
        return None if points is start else points

    def _values(self, image: Tensor) -> Tensor:
        for spec, augmentation in self._changing("values"):
            chosen = self._chosen(spec, len(image))
            if len(chosen):
                rows = chosen.to(image.device)
                image = image.index_copy(0, rows, _tried(spec, augmentation.values, image[rows]))
        return image

    def _batch(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        for spec, augmentation in self._changing("batch"):
            chosen = self._chosen(spec, len(image))
            partner = torch.randperm(len(image))
            if len(chosen):
                with foreign(f"augmentation {str(spec)!r}"):
                    changed = augmentation.batch(image, target, partner.to(image.device))
                keep = torch.ones(len(image), dtype=torch.bool).index_fill(0, chosen, False).to(image.device)
                image, target = (
                    torch.where(keep.view(-1, *[1] * (old.dim() - 1)), old, new)
                    for old, new in zip((image, target), changed, strict=True)
                )
        return image, target

    def _changing(self, what: str) -> list[tuple[AugmentationSpec, Augmentation]]:
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
    """Slices (N, C, H, W) with their pixels taken from `points`, bilinear; outside, the value at the edge goes on."""
    return F.grid_sample(image, points.to(image.dtype), padding_mode="border", align_corners=False)


def sampled_labels(labels: Tensor, points: Tensor) -> Tensor:
    """Labels (N, H, W) at `points`, each that of the nearest pixel; outside, `IGNORE`."""
    nearest = F.grid_sample(labels[:, None].float(), points, mode="nearest", padding_mode="border", align_corners=False)
    outside = (points.abs() > 1).any(dim=-1)
    return nearest[:, 0].round().to(labels.dtype).masked_fill(outside, IGNORE)


def boxes(number: int, shape: Sequence[int], share: float) -> Tensor:
    """Draw boxes inside images (H, W): masks (number, H, W). Areas are even up to `share`, sides up to 1 : 2."""
    height, width = shape
    cpu = torch.device("cpu")
    area, ratio = uniform(number, 0, share, cpu), uniform(number, -0.35, 0.35, cpu).exp()
    spans = []
    for length, side in ((height, (area * ratio).sqrt()), (width, (area / ratio).sqrt())):
        wide = (side.clamp(max=1) * length)[:, None]
        start = torch.rand(number)[:, None] * (length - wide)
        at = torch.arange(length) + 0.5
        spans.append((at >= start) & (at < start + wide))
    return spans[0][:, :, None] & spans[1][:, None, :]


def _tried(spec: AugmentationSpec, change: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """What the augmentation makes of these points or slices.

    Raises:
        SsmtlError: it fails, or returns something of another shape.
    """
    with foreign(f"augmentation {str(spec)!r}"):
        changed = change(given)
        if changed.shape != given.shape:
            raise ValueError(
                f"{change.__name__}() must return the shape {tuple(given.shape)}, not {tuple(changed.shape)}"
            )
        return changed.to(given.dtype)
