"""A backbone with a head: one module, one file, and how it is used on a scan."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.patches import covered
from ssmtl_toolkit.data.postprocess import smooth_slices
from ssmtl_toolkit.data.prepare import Sliced, Standard, refuse_blank
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.data.wayback import WayBack
from ssmtl_toolkit.downstream.meaning import Meaning
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.building import built, check_used, has_lazy
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.registry import our_version, registry
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.about import Model, restored_slicing, slicing_about
from ssmtl_toolkit.runtime.checkpoint import check_tensors
from ssmtl_toolkit.runtime.usage import Answer, Usage
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec, Spec, named
from ssmtl_toolkit.text import counted, printable

TODO = "it is not a model of ssmtl finetune; give the run folder of a fine-tuning"

Flip = Literal["lr", "ud"]
"""Which way slices are mirrored: their columns, left to right, or their rows, upside down."""
_AXES: Mapping[Flip, int] = {"lr": -1, "ud": -2}


class Downstream(nn.Module):
    """The head on the backbone: images (N, C, H, W) -> maps, one for each class or channel of an image."""

    def __init__(self, backbone: Backbone, head: Head, meaning: Meaning | None = None) -> None:
        """`meaning` is that of the maps, if they are of labels; by default one class for each pixel."""
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._meaning = meaning

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.head(self.backbone(image))
        return maps

    @property
    def maps(self) -> int | None:
        """How many maps the head must make, if what they mean is known."""
        return None if self._meaning is None else self._meaning.maps

    def loss(self, maps: Tensor, target: Tensor) -> Tensor:
        """The head's loss against class indices (N, H, W), or against slices (N, C, H, W)."""
        return self.head.loss(maps, target if self._meaning is None else self._meaning.target(target))


@dataclass(frozen=True)
class ModelSpec:
    """What makes a `Downstream`, and what goes in and comes out of it: all that a file must hold beside the weights.

    `classes` is None for heads with output `image`; `channels` is how many the images have, and `contrasts` which, as
    `Scan.contrasts`.
    """

    backbone: BackboneSpec
    head: HeadSpec
    slicing: Slicing
    classes: Classes | None
    channels: int
    contrasts: tuple[str, ...] = ()

    @property
    def meaning(self) -> Meaning | None:
        """What the maps mean; None: they are slices."""
        return None if self.classes is None else Meaning.of(self.classes)

    @property
    def named(self) -> str:
        """What is named if the network fails."""
        return f"{named(self.head)} on {named(self.backbone)}"

    def build(self) -> Downstream:
        """Make the module, with fresh weights from torch's global generator: the backbone's first, then the head's."""
        backbone = built(self.backbone, self.channels)
        meaning = self.meaning
        model = Downstream(backbone, built(self.head, backbone, meaning.maps if meaning else 0), meaning)
        if has_lazy(model):  # they get their shapes from images; what reads none has no shape
            side = self.slicing.size
            with foreign(self.named), torch.no_grad(), torch.random.fork_rng(devices=[]):
                model.eval()(torch.zeros(1, self.channels, side, side))
            check_used(self.backbone, model.backbone)
            check_used(self.head, model.head)
            model.train()
        return model

    def usage(self, cuts: Iterable[tuple[str, float]] = ()) -> Usage:
        """How the model is used without this package; `cuts` of the training scans: as `Usage.of` takes them."""
        return Usage.of(self.slicing, self.channels, cuts, Answer.of(self.classes))

    def save(self, file: Path, model: Downstream, about: Mapping[str, Any], usage: Usage | None = None) -> None:
        """Write weights, model_spec, its usage and `about`, whole or not at all.

        Raises:
            SsmtlError: the disk is full or not writable.
        """
        found = registry()
        said = {
            "version": our_version(),
            "backbone": found.origin(self.backbone),
            "head": found.origin(self.head),
            **slicing_about(self.slicing),
            "classes": self.classes and self.classes.to_json(),
            "channels": self.channels,
            "usage": (usage or self.usage()).model_dump(mode="json"),
            "contrasts": list(self.contrasts),
            **about,
        }
        weights.write(file, model.state_dict(), said)

    @classmethod
    def load(cls, file: Path, specs: Iterable[type[Spec]] = ()) -> tuple[ModelSpec, Downstream]:
        """Read a model that `save` has written; `specs` are classes known beside those of plugins.

        Raises:
            DataError: the file is damaged, not a fine-tuned model, or does not fit what is installed.
            UsageError: a plugin that it needs is not installed.
        """
        return cls.restore(weights.read(file, TODO), specs)

    @classmethod
    def restore(cls, read: weights.Weights, specs: Iterable[type[Spec]] = ()) -> tuple[ModelSpec, Downstream]:
        """Make the model of a file that `weights.read` has read; raises what `load` does."""
        place = printable(read.file)
        if "head" not in read.said():
            raise DataError(f"{place}: {TODO}")
        said, found = read.about(Model), registry()
        classes = None if said.classes is None else Classes.from_json(said.classes.model_dump(), place)
        network = found.restore(BackboneSpec, said.backbone.model_dump(), place, specs)
        head = found.restore(HeadSpec, said.head.model_dump(), place, specs)
        slicing = restored_slicing(said.prepare, said.preparations, place, specs)
        model_spec = cls(network, head, slicing, classes, said.channels, said.contrasts)
        try:
            with hub(allowed=False):  # the content of a file must not cause downloads
                model = model_spec.build()
        except (OSError, RuntimeError, MemoryError) as error:
            raise DataError(
                f"{place}: its network {printable(str(network))} cannot be built here "
                f"({printable(str(error))[:200]}); train it again, or use the machine that trained it"
            ) from error
        check_tensors(read.file, read.tensors, model.state_dict())
        model.load_state_dict(read.tensors)
        return model_spec, model


class Predictor:
    """Uses one or several models on scans, a batch of slices at a time.

    Several models, or one with `flips`, give the mean of their probabilities, or of their images. Memory is the scan's
    own, that of a batch, and that of the models: a batch is read and standardised once, and goes through one after
    another.
    """

    def __init__(
        self,
        model_spec: ModelSpec,
        models: Sequence[Downstream],
        fabric: Fabric,
        batch_size: int = 16,
        flips: Collection[Flip] = (),
    ) -> None:
        """`models` are all made by `model_spec`; they also see the slices mirrored along each choice of `flips`."""
        self.model_spec, self.fabric, self.batch_size = model_spec, fabric, batch_size
        self.meaning = model_spec.meaning
        self.models = [model.to(fabric.device).eval() for model in models]
        axes = [_AXES[flip] for flip in sorted(flips)]
        self._views = [mirrored for n in range(len(axes) + 1) for mirrored in itertools.combinations(axes, n)]

    @property
    def _averages(self) -> bool:
        """Whether maps are means: of labels they are probabilities then."""
        return len(self.models) * len(self._views) > 1

    def sliced(self, volume: Volume) -> Sliced:
        """Cut and prepare a scan as the model was trained.

        Raises:
            DataError: it has another number of channels, or all voxels of one have one value.
        """
        refuse_blank(volume)
        sliced = Sliced.of(volume, self.model_spec.slicing)
        if sliced.channels != self.model_spec.channels:
            prepared = f" once prepared ({counted(volume.channels, 'channel')} in its file)"
            raise DataError(
                f"has {counted(sliced.channels, 'channel')}{prepared if self.model_spec.slicing.prepare else ''}, and "
                f"the model takes {self.model_spec.channels}; give the scan with the channels of the training: a line "
                f"of a manifest, or a folder with channel=all"
            )
        return sliced

    def maps(self, sliced: Sliced) -> Iterator[tuple[slice, Tensor, Standard]]:
        """Yield for each batch of slices where it lies, the maps (n, …, h, w) float32, and what it was made of."""
        for start in range(0, len(sliced), self.batch_size):
            rows = slice(start, start + self.batch_size)
            made = sliced.standard(rows)
            yield rows, self.resized(torch.from_numpy(made.slices), sliced.stack.grid[1:]), made

    def resized(self, image: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Maps of images (n, C, h, w), brought to `shape` by bilinear interpolation; of several models their mean.

        If the models see patches, `shape` is (h, w): windows cover the images, and their maps are blended.
        """
        if not self.model_spec.slicing.patches:
            return self._resized(image, shape)
        size = self.model_spec.slicing.size
        with torch.inference_mode():
            return covered(image.to(self.fabric.device), size, lambda part: self._resized(part, (size, size)))

    def _resized(self, image: Tensor, shape: tuple[int, ...]) -> Tensor:
        with foreign(self.model_spec.named), torch.inference_mode():
            image = image.to(self.fabric.device)
            if not self._averages:
                return self._of(self.models[0], image, (), shape)
            total = torch.zeros((), device=image.device)
            for model, mirrored in itertools.product(self.models, self._views):
                maps = self._of(model, image, mirrored, shape)
                total = total + (maps if self.meaning is None else self.meaning.chances(maps))
            return total / (len(self.models) * len(self._views))

    def _of(self, model: Downstream, image: Tensor, mirrored: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        """Maps of one model that sees the images mirrored along these axes, mirrored back, float32."""
        with self.fabric.autocast():
            maps: Tensor = model(image.flip(mirrored) if mirrored else image).float()
            if mirrored:
                maps = maps.flip(mirrored)
            if maps.shape[2:] != shape:
                maps = F.interpolate(maps, shape, mode="bilinear", align_corners=False)
        return maps

    def labels(
        self, volume: Volume, probabilities: NDArray[np.float32] | None = None, smooth: float = 0.0
    ) -> NDArray[np.uint8]:
        """Return the class index of every voxel, (I, J, K) on the file's grid.

        Args:
            volume: the scan.
            probabilities: (S, H, W, maps), in the order of the cut, is filled if it is given.
            smooth: these are smoothed along the slices by a Gaussian with this standard deviation, in mm.
        """
        assert self.meaning is not None
        sliced, meaning = self.sliced(volume), self.meaning
        index = np.empty(sliced.cut.grid, np.uint8)
        outside = meaning.background
        if self._averages:
            outside = meaning.chances(outside[None, :, None, None]).flatten()
        parts = ((rows, maps) for rows, maps, _ in self.maps(sliced))
        for rows, maps in WayBack(sliced.lattice).each(parts, outside):
            index[rows] = meaning.index(maps, chances=self._averages).cpu().numpy()
            if probabilities is not None:
                chances = maps if self._averages else meaning.chances(maps)
                probabilities[rows] = chances.permute(0, 2, 3, 1).cpu().numpy()
        if smooth and probabilities is not None:
            index = smooth_slices(probabilities, smooth / sliced.cut.spacing[0], self._decided)
        return sliced.cut.back(index)

    def _decided(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The class indices (S, H, W) by probabilities (S, H, W, maps)."""
        assert self.meaning is not None
        chances = torch.from_numpy(np.ascontiguousarray(np.moveaxis(probabilities, -1, 1)))
        return self.meaning.index(chances, chances=True).numpy().astype(np.uint8)

    def image(self, volume: Volume) -> NDArray[np.float32]:
        """Return the slices that the head returns, in the scan's own units, on the file's grid.

        (I, J, K), or (I, J, K, C) of several channels. Where nothing was predicted, as beyond a crop, it is the lowest
        value of the channel.
        """
        sliced = self.sliced(volume)
        outside = sliced.lowest
        out = np.empty((sliced.cut.grid[0], len(outside), *sliced.cut.grid[1:]), np.float32)
        for rows, values in WayBack(sliced.lattice).each(self._values(sliced), torch.from_numpy(outside)):
            out[rows] = values.numpy()
        image = sliced.cut.back(np.moveaxis(out, 1, -1))
        return image if len(outside) > 1 else image[..., 0]

    def _values(self, sliced: Sliced) -> Iterator[tuple[slice, Tensor]]:
        """Yield the images (n, C, h, w) of each batch in the scan's own units."""
        for rows, maps, made in self.maps(sliced):
            normal = maps.cpu().numpy()
            values = normal * made.deviation[..., None, None] + made.mean[..., None, None]
            yield rows, torch.from_numpy(sliced.undone(values.astype(np.float32)))
