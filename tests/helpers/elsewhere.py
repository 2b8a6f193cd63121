"""A device that is not this one, without one: torch's `meta` device, and what passes between it and the host."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")

_READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique", "masked_select")


class Traffic(TorchDispatchMode):
    """Counts what is sent to the meta device, and what of it and of reading there a host would wait for.

    Attributes:
        sent: transfers to the device.
        waits: the calls that end only when the device is done with all before them, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.waits = 0, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        there = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.is_meta]
        if name == "_to_copy" and torch.device(kwargs.get("device") or args[0].device) != args[0].device:
            return self._copied(args[0], bool(kwargs.get("non_blocking")), func, args, kwargs)
        if name == "copy_" and args[0].device != args[1].device:
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
            return self._copied(args[1], not waits, func, args, kwargs)
        if there and (name in _READS or (name == "index" and _is_mask(args[1]))):
            self.waits[name] += 1
            args, kwargs = torch.utils._pytree.tree_map(_of_zeros, (args, kwargs))
        return func(*args, **kwargs)

    def _copied(self, source: Tensor, non_blocking: bool, func: Any, args: Any, kwargs: Any) -> Any:
        self.sent += not source.is_meta
        self.waits["a transfer"] += not non_blocking
        if not source.is_meta:
            return func(*args, **kwargs)
        zeros = torch.zeros_like(source, device="cpu")
        return args[0].zero_() if func.__name__.startswith("copy_") else zeros


def _is_mask(index: Any) -> bool:
    return any(one is not None and one.is_meta and one.dtype in (torch.bool, torch.uint8) for one in index)


def _of_zeros(one: Any) -> Any:
    return torch.zeros_like(one, device="cpu") if isinstance(one, Tensor) and one.is_meta else one


class Meta(CPUAccelerator):
    """An accelerator that minds no device."""

    def setup_device(self, device: torch.device) -> None:
        pass


def meta_fabric() -> Fabric:
    """A Fabric that puts everything on the meta device."""
    return Fabric(strategy=SingleDeviceStrategy(device=META, accelerator=Meta()))


class Plain(torch.optim.Optimizer):
    """Gradient descent that asks for nothing: torch's own optimizers look at values where they have no kernel."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad)


def autocast_off_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.autocast take the meta device, which has no types of its own, for the CPU."""
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **options: Any) -> Any:
        return real("cpu" if device_type == "meta" else device_type, *args, **options)

    monkeypatch.setattr(torch, "autocast", autocast)
