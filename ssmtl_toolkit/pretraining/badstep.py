"""The step that ended a run, kept in its folder: weights as they were before it, and its batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import Batch, Companion, Position
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.pretraining.update import Updater
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.checkpoint import check_tensors
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.runtime.folder import BAD_STEP
from ssmtl_toolkit.text import printable

_MODEL, _RANDOM = "model/", "random"


@dataclass(frozen=True)
class BadBatch:
    """One batch of the step, before augmentation.

    Attributes:
        batch: its slices.
        seed: what torch's generators were seeded with for it.
        random: the state of torch's generator on the CPU when the slices were gathered.
    """

    batch: Batch
    seed: int
    random: Tensor


def keep(folder: Path, update: Updater, step: int) -> None:
    """Write the step (counted from 1) into the run folder.

    Raises:
        OSError: the disk is full or not writable.
    """
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in update.model.state_dict().items()}
    seeds = []
    for part in range(update.config.accumulate):
        index = (step - 1) * update.config.accumulate + part
        seeds.append(step_seed(update.config.seed, index, update.fabric.global_rank))
        seed_all(seeds[-1], update.fabric.device)
        batch = update.load.plain(index)
        tensors |= {f"{part}/{name}": tensor for name, tensor in _tensors(batch)}
        tensors[f"{part}/{_RANDOM}"] = torch.get_rng_state()
    about = {"step": step, "seeds": seeds, "channels": update.model.backbone.in_channels}
    weights.write(folder / BAD_STEP, tensors, about, finite=False)


def kept(file: Path, model: MultiTask) -> tuple[int, list[BadBatch]]:
    """Load the weights of before the step into the model, and return its number and its batches.

    Raises:
        DataError: the file is damaged, or of another run.
    """
    saved = weights.read(file, "give the folder of a run that a step ended", finite=False)
    about = saved.said()
    own = {k.removeprefix(_MODEL): v for k, v in saved.tensors.items() if k.startswith(_MODEL)}
    check_tensors(file, own, model.state_dict())
    model.load_state_dict(own)
    try:
        batches = [_batch(saved.tensors, f"{part}/", seed) for part, seed in enumerate(about["seeds"])]
        return int(about["step"]), batches
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{printable(file)}: is no step of a run ({type(error).__name__}: {error})") from error


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a batch before augmentation, by names that `_batch` reads."""
    yield "anchor", batch.anchor
    yield "seed", torch.tensor([batch.seed, int(batch.first)])
    for name, tensor in vars(batch.position).items():
        yield f"position/{name}", tensor
    for label, companions in batch.companions.items():
        for name, companion in companions.items():
            for what, tensor in vars(companion).items():
                if tensor is not None:
                    yield f"companion/{label}/{name}/{what}", tensor


def _batch(tensors: Mapping[str, Tensor], prefix: str, seed: int) -> BadBatch:
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    companions: dict[str, dict[str, dict[str, Any]]] = {}
    for name, tensor in own.items():
        if name.startswith("companion/"):
            label, companion, what = name.removeprefix("companion/").rsplit("/", 2)
            companions.setdefault(label, {}).setdefault(companion, {})[what] = tensor
    position = Position(**{k.removeprefix("position/"): v for k, v in own.items() if k.startswith("position/")})
    named = {label: {name: Companion(**what) for name, what in by.items()} for label, by in companions.items()}
    number, first = own["seed"].tolist()
    return BadBatch(Batch(own["anchor"], named, position, number, bool(first)), int(seed), own[_RANDOM].clone())
