"""Optimizers by name, from timm's factory."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.foreign import explained
from ssmtl_toolkit.text import did_you_mean, printable

_FUSED = ("cpu", "cuda")  # devices that update all parameters by one kernel


def check_optimizer(name: str) -> None:
    """Refuse the name of an optimizer that timm does not have.

    Raises:
        UsageError: with the nearest name.
    """
    from timm.optim import list_optimizers  # type: ignore[attr-defined]

    known = [str(known) for known in list_optimizers()]
    if name.lower() not in known:
        raise UsageError(
            f"--optimizer {printable(name)}: timm has no such optimizer{did_you_mean(name.lower(), known)} (such as "
            f"adam, adamw, sgd, nadamw, lion)"
        )


def make_optimizer(
    name: str,
    parameters: Iterable[torch.nn.Parameter] | Sequence[dict[str, Any]],
    lr: float,
    weight_decay: float,
    device: torch.device,
) -> torch.optim.Optimizer:
    """Make an optimizer of parameters, or of groups of them with their own rates; fused where it can be.

    Raises:
        UsageError: timm has none of this name, or it needs a package or a GPU that is missing.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_class  # type: ignore[attr-defined]

    check_optimizer(name)
    takes = inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters
    more: dict[str, Any] = {"fused": True} if device.type in _FUSED and "fused" in takes else {}
    try:
        return create_optimizer_v2(parameters, opt=name, lr=lr, weight_decay=weight_decay, **more)
    except (ImportError, AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"--optimizer {name}: cannot be made here ({explained(error)}); choose another") from error
