"""Trained weights as torch modules, which also take plain arrays of slices: `load_backbone` and `load_model`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from numpy.typing import NDArray
from torch import Tensor, nn

from ssmtl_toolkit.data.prepare import Sliced, refuse_blank
from ssmtl_toolkit.data.slicing import Axis, Slicing
from ssmtl_toolkit.data.volume import Volume, on_axis
from ssmtl_toolkit.downstream.ensemble import Ensemble
from ssmtl_toolkit.downstream.model import Predictor
from ssmtl_toolkit.engine.backbone import Backbone, Features
from ssmtl_toolkit.engine.building import built
from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.features import Feature
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.runtime.usage import Answer, Usage
from ssmtl_toolkit.specs import BackboneSpec, Spec, spec_classes
from ssmtl_toolkit.text import printable

Spacing = tuple[float, float, float]
_SPACING = (1.0, 1.0, 1.0)


def load_backbone(
    source: str | os.PathLike[str], *, spec: BackboneSpec | type[Spec] | Sequence[type[Spec]] = ()
) -> LoadedBackbone:
    """Load a pre-trained backbone as a torch module, in eval mode.

    >>> backbone = load_backbone("runs/first")
    >>> backbone(images).shape          # images (N, C, H, W), prepared -> (N, dense_channels, H, W)
    >>> backbone.predict_slices(array)  # slices (S, H, W) in the scan's own units -> (S, pooled_channels)

    Args:
        source: run folder of a pre-training, or its file of weights.
        spec: the class of its backbone, if no plugin registers it; or a spec, if the file does not name one.

    Raises:
        UsageError: a plugin that it needs is not installed.
        DataError: the file is damaged or holds no backbone.
    """
    classes = () if isinstance(spec, BackboneSpec) else spec_classes(spec)
    pretrained = Pretrained.open(_path(source), classes)
    chosen = spec if isinstance(spec, BackboneSpec) else pretrained.spec()
    if chosen is None:
        raise UsageError(f"{printable(pretrained.file)}: does not record which network it belongs to; give spec=…")
    with hub(allowed=False):  # the content of a file must not cause downloads
        backbone = built(chosen, pretrained.channels or 1)
    pretrained.load_into(backbone)
    if pretrained.about:  # also what was not trained, as it was saved
        backbone.load_state_dict(dict(pretrained.tensors))
    return LoadedBackbone(backbone, chosen, pretrained)


def load_model(
    source: str | os.PathLike[str], *, spec: type[Spec] | Sequence[type[Spec]] = (), progress: Progress | None = None
) -> LoadedModel:
    """Load a fine-tuned model as a torch module, in eval mode; of several repetitions all, as `predict` does.

    >>> model = load_model("runs/ft")
    >>> model(images)                # images (N, C, H, W), prepared -> maps (N, classes + 1, H, W)
    >>> model.predict_slices(array)  # slices (S, H, W) in the scan's own units -> label values (S, H, W)

    Args:
        source: run folder of a fine-tuning, of one of its repetitions, or a model file.
        spec: classes of its backbone, head or preparations that no plugin registers.
        progress: is notified of repetitions that are not finished.

    Raises:
        UsageError: there is none, or a plugin that it needs is not installed.
        DataError: the file is damaged or holds no fine-tuned model.
    """
    return LoadedModel(Ensemble.open(_path(source), progress or Progress(), spec_classes(spec)))


def _path(source: str | os.PathLike[str]) -> Path:
    if not source or not isinstance(source, str | os.PathLike):
        raise UsageError(f"source is {source!r}; give a run folder or a file of weights, as text or Path")
    return Path(source)


class _Loaded(nn.Module):
    """What both share: how slices are made of arrays.

    Attributes:
        usage: how it is used, as the file says it.
    """

    def __init__(self, slicing: Slicing, usage: Usage) -> None:
        super().__init__()
        self.slicing = slicing.model_copy(update={"axis": "acquisition"}) if slicing.in_time else slicing
        self.usage = usage

    @property
    def axis(self) -> Axis:
        """The axis that arrays of slices are cut along: `usage.directions[axis]` says how they lie."""
        cut = self.slicing.axis
        if cut == "acquisition" or cut == "time":
            return self.usage.axes[0] if self.usage.axes else "axial"
        return cut

    def volume(self, slices: Any, spacing: Spacing = _SPACING) -> Volume:
        """Slices (S, H, W) or (S, C, H, W) as a scan; `spacing` is mm between slices, rows and columns.

        Of a network for sequences in time they are the frames at one position.

        Raises:
            UsageError: they have another shape, or are not finite numbers.
        """
        array = np.asarray(slices.detach().cpu() if isinstance(slices, Tensor) else slices)
        if array.ndim not in (3, 4) or 0 in array.shape or array.dtype.kind not in "biuf":
            what = f"{array.dtype} of shape {array.shape}"
            raise UsageError(f"slices: expected numbers of shape (S, H, W), or (S, C, H, W), got {what}")
        if not np.isfinite(array).all():
            raise UsageError("slices: hold NaN or infinite values; replace them")
        voxels = np.moveaxis(array, 1, -1) if array.ndim == 4 else array
        return on_axis(voxels, self.axis, spacing)

    def prepare_slices(self, slices: Any, spacing: Spacing = _SPACING) -> Tensor:
        """Slices as the network sees them, (S, C, h, w) float32 on the module's device.

        Raises:
            DataError: they cannot be prepared so.
        """
        volume = self.volume(slices, spacing)
        refuse_blank(volume)
        sliced = Sliced.of(volume, self.slicing)
        if sliced.channels != self.usage.channels:
            raise DataError(f"slices: have {sliced.channels} channels, and the network takes {self.usage.channels}")
        return torch.from_numpy(sliced.standard(slice(None)).slices).to(next(self.parameters()).device)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        before = self.training
        try:
            with torch.inference_mode():
                self.eval()
                yield
        finally:
            self.train(before)


class LoadedBackbone(_Loaded):
    """A pre-trained backbone: prepared images (N, C, H, W) -> its dense map (N, dense_channels, H, W).

    Without a decoder it gives the encoder's deepest map. `backbone.encoder` and `backbone.decoder` are the parts, with
    the names of the libraries that they come from; `features` gives all maps.
    """

    def __init__(self, backbone: Backbone, spec: BackboneSpec, pretrained: Pretrained) -> None:
        slicing = pretrained.slicing()
        usage = pretrained.usage or Usage.of(slicing, backbone.in_channels, (), Answer(kind="features"))
        super().__init__(slicing, usage)
        self.backbone, self.spec, self.file = backbone, spec, pretrained.file
        self.eval()

    def features(self, image: Tensor) -> Features:
        """All features of prepared images, each computed when it is read."""
        features: Features = self.backbone(image)
        return features

    def forward(self, image: Tensor) -> Tensor:
        features = self.features(image)
        return features.dense if self.backbone.dense_channels else features.pyramid[-1]

    def predict_slices(
        self, slices: Any, spacing: Spacing = _SPACING, *, feature: Feature = "pooled", batch_size: int = 16
    ) -> NDArray[np.float32]:
        """A feature of each slice: `pooled` (S, channels), or `dense` (S, channels, h, w) at the network's size.

        Args:
            slices: (S, H, W) or (S, C, H, W), in the scan's own units, turned as `usage.directions[axis]` says.
            spacing: mm between slices, rows and columns; only some preparations need it.
            feature: which.
            batch_size: slices that go through the network at once.

        Raises:
            UsageError, DataError: the slices cannot be used.
        """
        if feature not in ("pooled", "dense"):
            raise UsageError(f"feature: expected pooled or dense, got {feature!r}")
        with self._evaluating():
            prepared = self.prepare_slices(slices, spacing)
            parts = [self.features(part).tensors(feature)[0].cpu() for part in prepared.split(batch_size)]
        return torch.cat(parts).numpy()


class LoadedModel(_Loaded):
    """Fine-tuned models: prepared images (N, C, H, W) -> maps (N, K, H, W).

    Of one model these are what its head gives (of labels logits); of several they are the mean of their probabilities,
    or of their images. `models` are they, each a backbone with a head.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__(ensemble.model_spec.slicing, ensemble.usage)
        self.model_spec, self.source, self.members = ensemble.model_spec, ensemble.source, ensemble.members
        self.models = nn.ModuleList(ensemble.models)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        maps: list[Tensor] = [model(image) for model in self.models]
        if len(maps) == 1:
            return maps[0]
        meaning = self.model_spec.meaning
        return torch.stack([one if meaning is None else meaning.chances(one) for one in maps]).mean(dim=0)

    def predict_slices(
        self, slices: Any, spacing: Spacing = _SPACING, *, probabilities: bool = False, batch_size: int = 16
    ) -> NDArray[Any]:
        """What `predict` would write for these slices.

        Args:
            slices: (S, H, W) or (S, C, H, W), all those of a scan, in its own units, turned as `usage.directions[axis]`
                says.
            spacing: mm between slices, rows and columns; only some preparations need it.
            probabilities: give these instead of labels.
            batch_size: slices that go through the network at once.

        Returns:
            Label values (S, H, W); or probabilities (S, H, W, maps); or, of a head for images, the slices in their own
            units, (S, H, W) or (S, H, W, C).

        Raises:
            UsageError, DataError: the slices cannot be used.
        """
        classes, volume = self.model_spec.classes, self.volume(slices, spacing)
        if probabilities and self.model_spec.meaning is None:
            raise UsageError("probabilities: the model gives images, and no probabilities; omit it")
        with self._evaluating():
            models: Sequence[Any] = list(self.models)
            predictor = Predictor(
                replace(self.model_spec, slicing=self.slicing),
                models,
                _fabric(next(self.parameters()).device),
                batch_size,
            )
            if classes is None or self.model_spec.meaning is None:
                return predictor.image(volume)
            chances = None
            if probabilities:
                chances = np.empty((*volume.shape, self.model_spec.meaning.maps), np.float32)
            index = predictor.labels(volume, chances)
        return classes.to_values(index) if chances is None else chances


def _fabric(device: torch.device) -> Fabric:
    """Computation on this device, in float32."""
    devices = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices, precision="32-true", plugins=[LightningEnvironment()])
