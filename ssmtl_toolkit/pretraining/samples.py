"""What a training makes of a few fixed slices, now and then: pictures in samples/, and features along a stack."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.sampling import FixedSample, Plan
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import Pictures, SharedEncoder, Step
from ssmtl_toolkit.foreign import by_the_user, explained
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.pretraining.watch import leaving_no_trace, uncompiled
from ssmtl_toolkit.reporting.panels import Panel, panel
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.runtime.folder import SAMPLES
from ssmtl_toolkit.runtime.progress import Progress

_LOOKS, _SLICES, _STACK = 5, 4, 200  # looks after the first, slices in each, slices of a stack at most


class Samples:
    """Draws what each task makes of a few slices, held-out ones if there are any. It leaves no trace in the training.

    A picture that cannot be drawn is noted, once, and does not end the training.

    Attributes:
        steps: after which steps of the training it is to be done; 0 and the last are among them.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: ResolvedRun,
        model: MultiTask,
        source: tuple[SliceStore, Plan],
        steps: int,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.fabric, self.config, self.model, self.progress = fabric, config, model, progress
        self.store, self.plan = source
        self.folder = folder / SAMPLES
        self.steps = {math.ceil(i * steps / _LOOKS) for i in range(_LOOKS + 1)}
        self.seed = step_seed(config.seed, Stream.HELD_OUT)
        complete = self.plan.complete()
        anchors = complete if len(complete) else self.plan.anchors
        places = ((np.arange(_SLICES) + 0.5) / _SLICES * len(anchors)).astype(np.int64)
        chosen = np.unique(anchors[places])
        self._sample = FixedSample(self.plan, chosen, len(chosen), _SLICES, self.seed)
        self._failed = False

    def look(self, step: int) -> None:
        """Write a picture for each task as it is after `step` steps."""
        if step not in self.steps or self._failed:
            return
        with self._without_trace():
            seed_all(self.seed, self.fabric.device)
            batch, encode = Loader(self.store, self._sample, self.fabric.device)(0), SharedEncoder(self.model.backbone)
            batch.first = False
            made: dict[Any, Any] = {}
            for label, task in zip(self.model.labels, self.model.tasks, strict=True):
                if not hasattr(task, "pictures") and step < max(self.steps):
                    continue  # only its slices are drawn, which stay the same
                companions = batch.companions.get(label, {})
                one = Step(batch, encode, companions, made)
                draw: Callable[[Step], Pictures] | None = getattr(task, "pictures", None)
                pictures = draw(one) if draw else _pairs(one, list(companions))
                drawn = self._panel(pictures, batch.anchor, label, step)
                if drawn is not None and self.fabric.is_global_zero:
                    drawn.write(self.folder / f"{_slug(label)}-step-{step:08d}.png")

    def features(self) -> dict[str, Any] | None:
        """The two main components of the pooled features of one scan's slices, in order; for summary.json."""
        scan = max(self.store.scans, key=lambda stored: stored.count)
        kept = np.unique(np.linspace(0, scan.count - 1, min(scan.count, _STACK)).astype(np.int64))
        found: dict[str, Any] = {}
        with self._without_trace():
            parts = np.array_split(kept + scan.start, math.ceil(len(kept) / self.config.batch_size))
            features = np.concatenate([self._pooled(torch.from_numpy(rows)) for rows in parts])
            if len(kept) > 2 and np.isfinite(features).all():
                found = {"scan": scan.scan.name, "slices": kept.tolist(), **_components(features)}
        return found or None

    def _pooled(self, rows: Tensor) -> NDArray[np.float32]:
        """The pooled features of slices, (N, D)."""
        image = self.store.gather(rows, self.fabric.device, self.store.places(len(rows)))
        features: NDArray[np.float32] = self.model.backbone(image).pooled.float().cpu().numpy()
        return features

    @contextlib.contextmanager
    def _without_trace(self) -> Iterator[None]:
        """Look in eval mode; what fails is noted."""
        try:
            with leaving_no_trace(self.model), uncompiled(self.config), torch.no_grad(), self.fabric.autocast():
                self.model.eval()
                yield
        except BaseException as error:
            if by_the_user(error):
                raise
            self._failed = True
            self.progress.note(f"pictures for the report cannot be drawn: {explained(error)}")

    def _panel(self, pictures: Pictures, anchor: Tensor, label: str, step: int) -> Panel | None:
        """The panel of one task, its rows in the order of the slices; None if there is nothing to draw."""
        anchors = np.arange(len(anchor)) if pictures.rows is None else pictures.rows.cpu().numpy()
        if not len(anchors) or not (pictures.images or pictures.errors):
            return None
        rows = self._sample.batches[0][anchors]
        order = np.argsort(rows)
        images = {"anchor": anchor[torch.from_numpy(anchors).to(anchor.device)], **pictures.images}
        shown, errors = ({k: _gray(v)[order] for k, v in each.items()} for each in (images, pictures.errors))
        return panel(label, step, shown, errors, [self._name(row) for row in rows[order].tolist()])

    def _name(self, row: int) -> str:
        scan = next(scan for scan in self.store.scans if scan.start <= row < scan.start + scan.count)
        return f"{scan.scan.name}, slice {row - scan.start}"


def _pairs(step: Step, names: list[str]) -> Pictures:
    """How a task is drawn that does not say: its companions, beside the anchors that have all of them."""
    if not names:
        return Pictures({})
    found = step.together(*names)
    return Pictures({name: one.image for name, one in zip(names, found, strict=True)}, rows=found[0].rows)


def _gray(image: Tensor) -> NDArray[np.float32]:
    """One channel of images (M, C, H, W): the middle one, which of a slice with context is the slice itself."""
    channel: NDArray[np.float32] = image[:, (image.shape[1] - 1) // 2].float().cpu().numpy()
    return channel


def _components(features: NDArray[np.float32]) -> dict[str, Any]:
    """The two main components of features (S, D), and the share of their variance along each."""
    centred = features - features.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    energy, scores = sizes**2, left * sizes
    total = float(energy.sum()) or 1.0
    # a component and its negative say the same: the sign is that of the largest value
    signs = np.sign(scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])])
    return {
        "coordinates": [[float(x) for x in row] for row in (scores * signs)[:, :2]],
        "explained": [float(x) for x in energy[:2] / total],
        "spread": float(features.std(axis=0).mean() / (np.abs(features).mean() or 1.0)),
    }


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", label)[:80]
