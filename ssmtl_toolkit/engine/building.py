"""Builds networks, and refuses what could not be trained and saved; once before any data are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.balancer import Balancer
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.foreign import attributed, foreign
from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, HeadSpec, Spec, TaskSpec, named

_KEPT = frozenset(
    (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.bool),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    )
)
"""Types of numbers that are checked and saved."""

_MADE: Mapping[type[Spec], type[nn.Module]] = {
    BackboneSpec: Backbone,
    BalancerSpec: Balancer,
    HeadSpec: Head,
}
"""What parts of a kind build, if it is more than a module."""


def check_buildable(backbone: BackboneSpec, tasks: Sequence[TaskSpec] = ()) -> None:
    """Build the backbone for one channel, and the tasks on it, and forget them; random numbers stay as they are.

    Raises:
        UsageError: an encoder, a level or the like that does not exist.
        SsmtlError: start weights cannot be downloaded, or a plugin fails.
    """
    with torch.random.fork_rng(devices=[]):
        network = built(backbone, 1)
        for task in tasks:
            built(task, network)


def built(part: Spec, *given: Any) -> Any:
    """Build a part: a backbone from the number of channels, a task or head from the backbone, others as they take.

    Raises:
        UsageError: an option says what does not exist.
        SsmtlError: its plugin fails, or gives what cannot be trained and saved.
    """
    try:
        with foreign(f"building {named(part)}"):
            made = part.build(*given)  # type: ignore[attr-defined]
    except SsmtlError as error:
        raise attributed(error, named(part), part.name) from error
    wanted = next((cls for spec, cls in _MADE.items() if isinstance(part, spec)), nn.Module)
    if not isinstance(made, wanted):
        what = "torch.nn.Module" if wanted is nn.Module else wanted.__name__
        raise SsmtlError(f"{named(part)}: its build gives {type(made).__name__}; give a {what}")
    for name, tensor in _tensors(made):
        if problem := "" if is_lazy(tensor) else _unfit(tensor):  # lazy: the first images make it
            raise SsmtlError(f"{named(part)}: its tensor {name!r} {problem}")
    for name, tensor in made.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise SsmtlError(
                f"{named(part)}: its state {name!r} is {type(tensor).__name__}, which is not saved; give a tensor in "
                f"get_extra_state, or make it anew in build"
            )
        if not is_lazy(tensor) and not torch.isfinite(tensor).all():
            raise SsmtlError(
                f"{named(part)}: its tensor {name!r} is not finite, and could not be saved; start it with finite "
                f"numbers, or keep it by register_buffer(…, persistent=False)"
            )
    return made


def has_lazy(module: nn.Module) -> bool:
    """Whether a module has layers whose shapes come from the first images."""
    return any(is_lazy(tensor) for _, tensor in _tensors(module))


def check_used(part: Spec, module: nn.Module) -> None:
    """Refuse lazy layers that the first images have not reached: they have no shape.

    Raises:
        SsmtlError: naming the part and the first of them.
    """
    if idle := next((name for name, tensor in _tensors(module) if is_lazy(tensor)), None):
        raise SsmtlError(
            f"{named(part)}: its lazy layer of {idle!r} is never used, so that it has no shape and cannot be saved; "
            f"remove it, or give it its sizes"
        )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _unfit(tensor: Tensor) -> str:
    """Why a tensor could not be saved, and what to do; "" if it can."""
    if tensor.is_meta or tensor.layout != torch.strided:
        return "is sparse or on the meta device, and could not be saved; make it a plain one in build"
    if tensor.dtype not in _KEPT:
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"is {kind}, which is not saved; keep it as float32, or as uint8, and convert it in forward"
    if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
        return "is expanded: several of its numbers are one in memory; make a copy, such as tensor.clone()"
    return ""
