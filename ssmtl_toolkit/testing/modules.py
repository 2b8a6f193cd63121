"""What checks of tasks, backbones, heads and balancers do with modules: gradients, states, trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.testing.case import fail, require
from ssmtl_toolkit.testing.rank import train_on_two_ranks
from ssmtl_toolkit.testing.sample import differing, train
from ssmtl_toolkit.text import listed


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def some(names: Iterable[str]) -> str:
    """Three names at most, and how many more there are."""
    return listed(names, 3)


def reached(module: nn.Module) -> bool:
    """Whether any parameter has a gradient that is not zero."""
    return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters())


def without_gradient(module: nn.Module) -> list[str]:
    """Trainable parameters that no gradient has reached."""
    return [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


def finite_scalar(value: Any, what: str) -> None:
    """Refuse what is not a tensor of one finite number."""
    require(isinstance(value, Tensor), f"{what} is {type(value).__name__}, not a tensor")
    require(value.ndim == 0, f"{what} has shape {tuple(value.shape)}, not (); take the mean over the batch")
    require(bool(torch.isfinite(value)), f"{what} is {float(value.detach())}; guard divisions, logs and roots")


def unchanged_in_eval(module: nn.Module, use: Callable[[], object], gradient: bool = False) -> None:
    """Refuse a module whose state changes in eval mode, used without gradient unless one is asked for."""
    module.eval()
    before = state(module)
    with torch.set_grad_enabled(gradient):
        use()
    changed = differing(before, state(module))
    require(not changed, f"in eval mode {some(changed)} changed; update buffers and momentum only `if self.training`")


def same_after_loading(first: nn.Module, second: nn.Module, use: Callable[[nn.Module], Tensor]) -> None:
    """Refuse a module that does not do the same with the loaded state of another."""
    first.eval()
    second.eval()
    try:
        second.load_state_dict(state(first))
    except RuntimeError as error:
        fail(f"its state cannot be loaded: {str(error).splitlines()[-1].strip()}; equal options must give equal names")
    there, here = use(first).detach(), use(second).detach()
    require(
        torch.equal(there, here),
        f"with a loaded state it gives {there.flatten()[0]:g} as {here.flatten()[0]:g}; keep all that it computes with "
        f"in parameters and persistent buffers",
    )


def resumes(folder: Path, **parts: Any) -> None:
    """Refuse what does not end with the same bits when killed after the first of three steps and resumed."""
    whole = train(folder / "whole", 3, **parts)
    train(folder / "parted", 1, **parts)
    different = differing(whole, train(folder / "parted", 3, **parts))
    require(
        not different,
        f"after 3 steps {some(different)} differ from those of a run that was stopped after the first and resumed; "
        f"keep state in persistent buffers, and draw only from torch's global generator or step.seed",
    )


def repeats(folder: Path, **parts: Any) -> None:
    """Refuse what does not give the same bits twice."""
    different = differing(train(folder / "first", 2, **parts), train(folder / "second", 2, **parts))
    require(
        not different,
        f"two trainings with one seed differ in {some(different)}; draw only from torch's global generator",
    )


def trains_on_two_ranks(
    folder: Path,
    tasks: Sequence[Spec],
    backbone: Spec | None = None,
    balancer: Spec | None = None,
    **options: Any,
) -> None:
    """Refuse what fails in two processes, or leaves them with different weights."""
    roles = {"tasks": tasks}
    if backbone is not None:
        roles["backbone"] = [backbone]
    if balancer is not None:
        roles["balancer"] = [balancer]
    first, second = train_on_two_ranks(folder / "ranks", roles, **options)
    different = [name for name in first if first[name] != second[name]]
    require(
        not different,
        f"two processes end with different {some(different)}; weights that no optimizer moves must be moved alike "
        f"(step.seed is equal on all, torch.distributed gathers)",
    )


def under_autocast(use: Callable[[], Tensor], module: nn.Module) -> None:
    """Refuse a loss or gradients that are not finite under bf16 autocast."""
    module.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = use()
    finite_scalar(loss, "under bf16 autocast the loss")
    loss.backward()
    wrong = [
        name for name, p in module.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    require(not wrong, f"under bf16 autocast the gradients of {some(wrong)} are not finite; compute losses in float32")
