"""One fine-tuning: the loop, and what `until convergence` means here."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.sampling import in_turn
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.pretraining.verdict import rises_without_end
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.runtime.log import MetricLog
from ssmtl_toolkit.runtime.progress import Progress


@dataclass(frozen=True)
class Examples:
    """What is trained on: slices in a store, those chosen of them, and the class indices of all (None: no labels)."""

    store: SliceStore
    rows: NDArray[Any]
    targets: Tensor | None

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the scans' contents, the slices chosen of them, and all labels; no names, no paths."""
        total = hashlib.sha256(self.store.fingerprint.encode())
        total.update(np.ascontiguousarray(self.rows, np.int64).data)
        if self.targets is not None:
            total.update(self.targets.contiguous().numpy().data)
        return total.hexdigest()

    def batch(self, rows: NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the images (N, 1, size, size) and targets: class indices (N, size, size), or the images themselves."""
        index = torch.from_numpy(rows)
        image = self.store.gather(index, device)
        return image, image if self.targets is None else self.targets[index].long().to(device)


@dataclass
class Progressed:
    """How far a fine-tuning is, beside the state of network and optimizer.

    Attributes:
        step: updates done.
        losses: those that no line of metrics.jsonl holds yet.
        best: the best validation score, its step and its weights.
    """

    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    best: tuple[float, int, dict[str, Tensor]] | None = None

    def is_done(self, config: ResolvedFinetune) -> bool:
        """Whether all steps are done, or nothing improved in `patience` checks."""
        waited = self.step - self.best[1] if self.best else 0
        return self.step >= config.steps or (self.best is not None and waited >= config.patience * config.check_every)


class Keeper(Protocol):
    """Keeps the state of an unfinished fine-tuning on the disk."""

    def load(self, model: Downstream, optimizer: torch.optim.Optimizer) -> Progressed:
        """Restore network and optimizer, and return how far they were; at step 0 if nothing was kept."""

    def keep(self, model: Downstream, optimizer: torch.optim.Optimizer, at: Progressed, *, last: bool) -> None:
        """Save if it is time to, or if a signal has come, and then raise; `last`: nothing is left to train."""


def train_loop(
    model: Downstream,
    examples: Examples,
    config: ResolvedFinetune,
    seed: int,
    fabric: Fabric,
    log: Path,
    progress: Progress,
    validate: Callable[[], float] | None = None,
    keeper: Keeper | None = None,
) -> dict[str, Any]:
    """Train `model` in place.

    Without `validate` it takes `config.steps` updates. With it, training has converged when the validation score has
    not improved in `config.patience` checks, `config.check_every` steps apart; the weights of the best check are
    kept, and `config.steps` is the maximum. With a `keeper` it resumes from the state that was kept.

    Returns:
        Steps taken, the step of the weights that are kept, the last losses, and the validation score.

    Raises:
        UsageError: the network cannot be trained on such slices.
        SsmtlError: the loss is no longer a number.
    """
    _freeze(model, config)
    groups = [group for group in _groups(model, config) if group["params"]]
    optimizer = torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay)
    module, wrapped = fabric.setup(model, optimizer)
    at = keeper.load(model, optimizer) if keeper else Progressed()
    metrics = MetricLog(log)
    metrics.cut(at.step)
    progress.training(at.step, config.steps, config.batch_size)
    while not at.is_done(config):
        with foreign(f"fine-tuning of {config.head} on {config.backbone}, step {at.step + 1},"):
            at.losses.append(_update(module, wrapped, model, examples, config, seed, at.step, fabric))
        at.step += 1
        progress.stepped(at.step)
        last = at.step == config.steps
        checked = validate is not None and (at.step % config.check_every == 0 or last)
        if at.step % config.log_every == 0 or last or checked:
            record = _record(at)
            if checked and validate is not None:
                record["validation"] = _check(model, config, at, validate)
            metrics.append(record)
            progress.logged(record)
        if keeper:
            keeper.keep(model, optimizer, at, last=at.is_done(config))
    if at.best is not None:
        model.load_state_dict(at.best[2])
    model.eval()
    losses = [record["fine-tuning/loss"] for record in metrics.records() if "fine-tuning/loss" in record]
    if rises_without_end(losses):
        progress.note(
            f"the loss of the fine-tuning rises without end, from {losses[0]:.3g} to {losses[-1]:.3g}; try a lower --lr"
        )
    score, kept = at.best[:2] if at.best else (None, at.step)
    return {"steps": at.step, "kept_step": kept, "loss": losses[-1] if losses else None, "validation": score}


def _update(
    module: Any,
    optimizer: Any,
    model: Downstream,
    examples: Examples,
    config: ResolvedFinetune,
    seed: int,
    step: int,
    fabric: Fabric,
) -> Tensor:
    """Do the update after `step` others; returns its loss."""
    seed_all(step_seed(seed, step), fabric.device)
    rows = in_turn(examples.rows, step * config.batch_size, config.batch_size, seed)
    image, target = examples.batch(rows, fabric.device)
    loss = _loss(module, model, image, target, config)
    fabric.backward(loss)
    if config.clip is not None:
        fabric.clip_gradients(module, optimizer, max_norm=config.clip, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _record(at: Progressed) -> dict[str, Any]:
    """A line of metrics.jsonl on the steps since the last one."""
    mean = float(torch.stack(at.losses).mean())
    at.losses.clear()
    if not math.isfinite(mean):
        raise SsmtlError(f"the loss is {mean} by step {at.step}; try a lower --lr, --clip 1 or --precision 32")
    return {"step": at.step, "fine-tuning/loss": mean}


def _check(model: Downstream, config: ResolvedFinetune, at: Progressed, validate: Callable[[], float]) -> float:
    """The score on the validation scans; the weights are kept if it is the best one."""
    model.eval()
    with foreign(f"fine-tuning of {config.head} on {config.backbone}, validated after step {at.step},"):
        score = validate()
    _train_mode(model, config)
    if at.best is None or score > at.best[0]:
        at.best = score, at.step, _copy(model)
    return score


def _loss(module: Any, model: Downstream, image: Tensor, target: Tensor, config: ResolvedFinetune) -> Tensor:
    try:
        maps = module(model.head.degrade(image))
    except (RuntimeError, ValueError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise SsmtlError(f"not enough GPU memory for {len(image)} slices; try a smaller --batch-size") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(
            f"the network cannot be trained on {config.batch_size} slices of {config.size} x {config.size} "
            f"pixels ({reason}); try a --size that is a multiple of 32 or a larger one, or a larger --batch-size"
        ) from error
    return model.head.loss(maps, target)


def _freeze(model: Downstream, config: ResolvedFinetune) -> None:
    for part in _frozen(model, config):
        part.requires_grad_(False)
    _train_mode(model, config)


def _train_mode(model: Downstream, config: ResolvedFinetune) -> None:
    """Frozen parts stay in eval mode: their batch norm keeps its statistics too."""
    model.train()
    for part in _frozen(model, config):
        part.eval()


def _frozen(model: Downstream, config: ResolvedFinetune) -> list[torch.nn.Module]:
    parts: dict[str, list[torch.nn.Module]] = {
        "none": [],
        "encoder": [model.backbone.encoder],
        "backbone": [model.backbone],
    }
    return parts[config.freeze]


def _groups(model: Downstream, config: ResolvedFinetune) -> list[dict[str, Any]]:
    rates = [
        (model.backbone.encoder, config.encoder_lr),
        (model.backbone.decoder, config.decoder_lr),
        (model.head, None),
    ]
    return [
        {"params": [p for p in part.parameters() if p.requires_grad], "lr": rate or config.lr} for part, rate in rates
    ]


def _copy(model: Downstream) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
