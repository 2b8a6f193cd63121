"""`ssmtl run --replay`: repeat the step that ended a run, and say what in it goes bad first."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmtl_toolkit.config import ResolvedRun, RunConfig
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import SharedEncoder, TaskOutput
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.pretraining.badstep import BadBatch, kept
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.device import make_fabric, seed_all
from ssmtl_toolkit.runtime.folder import BAD_STEP, CONFIG
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.text import printable

_FRAME = re.compile(r'File "(.+?)", line (\d+), in (\S+)')


def replay(place: Path) -> dict[str, Any]:
    """Repeat the step that is kept in a run folder, or the file of it there, on the CPU.

    Returns:
        `step`, `losses` (by task, as text), and `first`: what is not finite first, in a sentence.

    Raises:
        UsageError: there is no such step.
        DataError: the file is damaged, or of another run.
    """
    file = place / BAD_STEP if place.is_dir() else place
    if not file.is_file():
        raise UsageError(
            f"{printable(place)}: there is no step to repeat (no {BAD_STEP}); give the folder of a run that ended with "
            f"a loss or gradient that is not finite"
        )
    config = RunConfig.of(RunConfig.read(file.parent / CONFIG), str(file.parent / CONFIG)).resolve()
    channels = int(weights.read(file, "give the folder of such a run", finite=False).said().get("channels", 1))
    with hub(allowed=False):
        model = MultiTask.build(config.backbone, config.tasks, config.balancer, channels)
    step, batches = kept(file, model)
    fabric = make_fabric(config.model_copy(update={"accelerator": "cpu"}), Progress())
    model.train()
    result: dict[str, Any] = {"step": step, "losses": {}, "first": ""}
    for part in batches:
        with fabric.autocast():
            result = {"step": step, **_repeated(model, config, part)}
        if result["first"]:
            return result
    return {**result, "first": "nothing: repeated here, the step is finite"}


def _repeated(model: MultiTask, config: ResolvedRun, part: BadBatch) -> dict[str, Any]:
    """One batch forward and backward: its losses, and what is not finite first; "": nothing."""
    seed_all(part.seed, torch.device("cpu"))
    torch.set_rng_state(part.random)
    batch = Augmenter(config.augment).unlabelled(part.batch)
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        wrong = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
        return {"losses": {}, "first": f"the weights {_called(model, wrong[0])} of before the step"}
    if not batch.anchor.isfinite().all():
        return {"losses": {}, "first": "the slices of the batch"}
    seen: list[str] = []
    with warnings.catch_warnings(record=True) as told, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        with _watched(model, seen):
            outputs = model.outputs(batch, SharedEncoder(model.backbone))
        losses = {label: f"{float(output.loss.detach()):.6g}" for label, output in outputs.items()}
        first = seen[0] if seen else _in_losses(model, outputs) or _in_gradients(model, outputs)
    at = _frame([str(warning.message) for warning in told])
    return {"losses": losses, "first": f"{first}{at if first else ''}"}


def _in_losses(model: MultiTask, outputs: dict[str, TaskOutput]) -> str:
    wrong = [label for label, output in outputs.items() if not output.loss.isfinite()]
    return f"the loss of {model.called(wrong[0])}, which all its modules' outputs are finite for" if wrong else ""


def _in_gradients(model: MultiTask, outputs: dict[str, TaskOutput]) -> str:
    """Go backward from each task's loss."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for label, output in outputs.items():
        try:
            gradients = torch.autograd.grad(
                output.loss, list(parameters.values()), retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            return f"in the backward pass of {model.called(label)}: {printable(str(error).splitlines()[0])}"
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None and not gradient.isfinite().all():
                return f"in the backward pass of {model.called(label)}: the gradient of {_called(model, name)}"
    return ""


@contextmanager
def _watched(model: MultiTask, seen: list[str]) -> Iterator[None]:
    """Meanwhile, note modules whose output is not finite, the innermost first."""

    def note(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if any(not one.isfinite().all() for one in _floating(output)):
                before = "" if all(one.isfinite().all() for one in _floating(inputs)) else ", as is what it is given"
                kind = type(module).__name__
                seen.append(f"the output of {_called(model, name)} ({kind}){before}")

        return look

    whole = [model, model.tasks, *model.tasks]  # a task's output is its losses
    named = [(name, module) for name, module in model.named_modules() if all(module is not one for one in whole)]
    handles = [module.register_forward_hook(note(name)) for name, module in named]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _floating(value: Any) -> Iterator[Tensor]:
    """The tensors of real numbers in what a module takes or gives."""
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _floating(one)


def _called(model: MultiTask, name: str) -> str:
    """A module or tensor of the model, with the task or backbone that it is of."""
    room, _, rest = name.partition(".")
    if room == "tasks":
        number, _, rest = rest.partition(".")
        return f"{rest or 'the whole'} of {model.called(model.labels[int(number)])}"
    return f"{rest} of the {room}" if rest else f"the {room}"


def _frame(told: list[str]) -> str:
    """Where in the code the operation was whose gradient is not finite, by what anomaly detection tells."""
    frames = [match.groups() for text in told if "Error detected in" in text for match in _FRAME.finditer(text)]
    own = [frame for frame in frames if "/torch/" not in frame[0]]
    return f" ({printable(Path(own[-1][0]).name)}, line {own[-1][1]}, in {own[-1][2]})" if own else ""
