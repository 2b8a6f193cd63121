"""A dense probe of a network that is being pre-trained: how well a linear classifier segments by its features.

Probing leaves no trace: a training with a probe ends with the same bits as one without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.engine.backbone import Backbone, Features
from ssmtl_toolkit.engine.metric import Counts
from ssmtl_toolkit.evaluation.scores import count
from ssmtl_toolkit.features import Feature
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.pretraining.labelled import Half, Labelled
from ssmtl_toolkit.pretraining.ridge import Ridge, resized
from ssmtl_toolkit.pretraining.watch import leaving_no_trace, uncompiled
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.specs import named

IOU, DICE = "probe/iou", "probe/dice"
"""The keys of a probe in metrics.jsonl: means over the classes."""

_LOOKS = 10  # in a training
_PIXELS = 256  # of each class, at most, that are taken of a slice to fit on


class Probe:
    """Fits a linear classifier on the pixels of one half of the labelled slices, scores it on the other, and swaps.

    Attributes:
        feature: the maps whose pixels are classified, all of them brought to the size of the image: the decoder's, or
            the encoder's if no task trains the decoder.
        steps: after which steps of the training it is to be done; the last is one of them, and 0, before any.
        seconds: that all probes have taken in this session.
    """

    def __init__(self, fabric: Fabric, config: ResolvedRun, backbone: Backbone, labelled: Labelled, steps: int) -> None:
        self.fabric, self.config, self.backbone, self.labelled = fabric, config, backbone, labelled
        self.seconds = 0.0
        every = config.probe_every
        looks = range(0, steps, every) if every else (math.ceil(i * steps / _LOOKS) for i in range(_LOOKS))
        self.steps = {*looks, steps}
        self.feature: Feature = "decoded" if "decoder" in config.trained else "pyramid"
        self._picked = [
            picked_pixels(half.labels.numpy(), _PIXELS, step_seed(config.seed, Stream.PROBE, i))
            for i, half in enumerate(labelled.halves)
        ]

    def measure(self) -> dict[str, float]:
        """The scores of the network as it is, in eval mode.

        Returns:
            `probe/iou` and `probe/dice`, means over the classes, and `probe/CLASS/iou` of each that truth or prediction
            shows; nothing if the features are not finite.
        """
        began = time.perf_counter()
        with leaving_no_trace(self.backbone), uncompiled(self.config), torch.no_grad():
            self.backbone.eval()
            seed_all(step_seed(self.config.seed, Stream.PROBE), self.fabric.device)
            with foreign(f"{named(self.config.backbone)}, probed in eval mode,"):
                counts = self._counts()
        self.seconds += time.perf_counter() - began
        return {} if counts is None else self._scores(counts)

    def _counts(self) -> NDArray[np.int64] | None:
        """True positives, false positives and false negatives (3, classes) of both halves; None: cannot be fitted."""
        classes = len(self.labelled.classes)
        counts = np.zeros((3, classes), np.int64)
        fits = self.fits()
        if fits is None:
            return None
        for half, ridge in zip(self.labelled.halves, reversed(fits), strict=True):
            for rows, maps in self.maps(half):
                scores = ridge.scores(maps, (self.config.size, self.config.size))
                predicted = scores.argmax(dim=1).to(torch.uint8).cpu().numpy()
                counts += count(predicted, half.labels[rows].numpy(), self.labelled.classes.members)
        return counts

    def fits(self) -> list[Ridge] | None:
        """A classifier fitted on each half; None: features are not finite."""
        fits = []
        for half, picked in zip(self.labelled.halves, self._picked, strict=True):
            features = self.pixels(half, picked)
            if not torch.isfinite(features).all():
                return None
            fits.append(Ridge.fit(features, half.labels.flatten(1)[picked], len(self.labelled.classes) + 1))
        return fits

    def maps(self, half: Half) -> Iterator[tuple[slice, list[Tensor]]]:
        """Yield the features of a half's slices, batch by batch: maps (n, d_i, h_i, w_i) float32."""
        for start in range(0, len(half.images), self.config.batch_size):
            rows = slice(start, start + self.config.batch_size)
            with self.fabric.autocast():
                features: Features = self.backbone(half.images[rows].to(self.fabric.device).float())
                maps = features.tensors(self.feature)
            yield rows, [one.float() for one in maps]

    def pixels(self, half: Half, picked: tuple[Tensor, Tensor]) -> Tensor:
        """The features (n, d) float32 of the picked pixels, which are sorted by slice."""
        slices, places = picked
        size = (self.config.size, self.config.size)
        found = []
        for rows, maps in self.maps(half):
            for i, number in enumerate(range(*rows.indices(len(half.images)))):
                here = places[slices == number].to(maps[0].device)
                whole = [resized(one[i : i + 1], size).flatten(2)[0][:, here] for one in maps]
                found.append(torch.cat(whole).T.cpu())
        return torch.cat(found)

    def _scores(self, counts: NDArray[np.int64]) -> dict[str, float]:
        each = dict(zip(self.labelled.classes.names, (Counts(*map(int, c)) for c in counts.T), strict=True))
        shown = {name: one for name, one in each.items() if not one.absent}
        iou = {name: float(one.iou or 0) for name, one in shown.items()}
        dice = [float(one.dice or 0) for one in shown.values()]
        means = {IOU: math.fsum(iou.values()) / len(iou), DICE: math.fsum(dice) / len(dice)}
        return {**means, **{f"probe/{name}/iou": value for name, value in iou.items()}}


def picked_pixels(labels: NDArray[np.uint8], number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw of each class in each slice of `labels` (n, H, W) at most `number` pixels.

    Returns:
        Their slices and their places in the flattened slice, sorted by slice.
    """
    rng = np.random.default_rng(seed)
    slices, places = [], []
    for i, flat in enumerate(labels.reshape(len(labels), -1)):
        for index in np.unique(flat[flat != IGNORE]):
            among = np.flatnonzero(flat == index)
            drawn = among if len(among) <= number else np.sort(rng.choice(among, number, replace=False))
            places.append(drawn)
            slices.append(np.full(len(drawn), i))
    return torch.from_numpy(np.concatenate(slices)), torch.from_numpy(np.concatenate(places))
