"""One fine-tuning: the loop, and what `until convergence` means here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import FinetuneConfig
from ssmtl_toolkit.data.sampling import in_turn, step_seed
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.engine.device import seed_all
from ssmtl_toolkit.engine.downstream import Downstream
from ssmtl_toolkit.engine.interrupt import interrupts
from ssmtl_toolkit.engine.metrics import MetricLog
from ssmtl_toolkit.engine.progress import Progress
from ssmtl_toolkit.engine.verdict import rises_without_end
from ssmtl_toolkit.errors import SsmtlError, UsageError


@dataclass(frozen=True)
class Examples:
    """What is trained on: slices in a store, those chosen of them, and the class indices of all (None: no labels)."""

    store: SliceStore
    rows: NDArray[Any]
    targets: Tensor | None

    def batch(self, rows: NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the images (N, 1, size, size) and targets: class indices (N, size, size), or the images themselves."""
        index = torch.from_numpy(rows)
        image = self.store.gather(index, device)
        return image, image if self.targets is None else self.targets[index].long().to(device)


def tune(
    model: Downstream,
    examples: Examples,
    config: FinetuneConfig,
    seed: int,
    fabric: Fabric,
    log: Path,
    progress: Progress,
    validate: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Train `model` in place.

    Without `validate` it takes `config.steps` updates. With it, training has converged when the validation score has
    not become better in `config.patience` checks, `config.check_every` steps apart; the weights of the best check are
    kept, and `config.steps` is the most it may take.

    Returns:
        Steps taken, the step of the weights that are kept, the last losses, and the validation score.

    Raises:
        UsageError: the network cannot be trained on such slices.
        SsmtlError: the loss is not a number any more.
    """
    _freeze(model, config)
    groups = [group for group in _groups(model, config) if group["params"]]
    optimizer = torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay)
    module, optimizer = fabric.setup(model, optimizer)
    metrics = MetricLog(log)
    log.unlink(missing_ok=True)
    losses: list[Tensor] = []
    best: tuple[float, int, dict[str, Tensor]] | None = None
    progress.training(0, config.steps, config.batch_size)
    step = 0
    while step < config.steps:
        seed_all(step_seed(seed, step), fabric.device)
        rows = in_turn(examples.rows, step * config.batch_size, config.batch_size, seed)
        image, target = examples.batch(rows, fabric.device)
        loss = _loss(module, model, image, target, config)
        fabric.backward(loss)
        if config.clip is not None:
            fabric.clip_gradients(module, optimizer, max_norm=config.clip, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        step += 1
        progress.stepped(step)
        interrupts.check("finished repetitions are kept; go on by --resume")
        checked = validate is not None and (step % config.check_every == 0 or step == config.steps)
        if step % config.log_every == 0 or step == config.steps or checked:
            mean = float(torch.stack(losses).mean())
            losses.clear()
            if not math.isfinite(mean):
                raise SsmtlError(f"the loss is {mean} by step {step}; try a lower --lr, --clip 1 or --precision 32")
            record: dict[str, Any] = {"step": step, "fine-tuning/loss": mean}
            if checked and validate is not None:
                model.eval()
                record["validation"] = validate()
                _train_mode(model, config)
                if best is None or record["validation"] > best[0]:
                    best = record["validation"], step, _copy(model)
            metrics.append(record)
            progress.logged(record)
            if best is not None and step - best[1] >= config.patience * config.check_every:
                break
    if best is not None:
        model.load_state_dict(best[2])
    model.eval()
    each = [record["fine-tuning/loss"] for record in metrics.records()]
    if rises_without_end(each):
        progress.note(
            f"the loss of the fine-tuning rises without end, from {each[0]:.3g} to {each[-1]:.3g}; try a lower --lr"
        )
    kept = best[1] if best else step
    return {"steps": step, "kept_step": kept, "loss": each[-1], "validation": best[0] if best else None}


def _loss(module: Any, model: Downstream, image: Tensor, target: Tensor, config: FinetuneConfig) -> Tensor:
    try:
        maps = module(model.head.degrade(image))
    except (RuntimeError, ValueError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise SsmtlError(f"not enough GPU memory for {len(image)} slices; try a smaller --batch-size") from error
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(
            f"the network cannot be trained on {config.batch_size} slices of {config.size} x {config.size} "
            f"pixels ({said}); try a --size that is a multiple of 32 or a larger one, or a larger --batch-size"
        ) from error
    return model.head.loss(maps, target)


def _freeze(model: Downstream, config: FinetuneConfig) -> None:
    for part in _frozen(model, config):
        part.requires_grad_(False)
    _train_mode(model, config)


def _train_mode(model: Downstream, config: FinetuneConfig) -> None:
    """Frozen parts stay in eval mode: their batch norm keeps its statistics too."""
    model.train()
    for part in _frozen(model, config):
        part.eval()


def _frozen(model: Downstream, config: FinetuneConfig) -> list[torch.nn.Module]:
    parts: dict[str, list[torch.nn.Module]] = {
        "none": [],
        "encoder": [model.backbone.encoder],
        "backbone": [model.backbone],
    }
    return parts[config.freeze]


def _groups(model: Downstream, config: FinetuneConfig) -> list[dict[str, Any]]:
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
