"""Where and how numbers are computed: devices, precision, memory layout, seeds."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, distributed, nn

from ssmtl_toolkit.config import Machine
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.features import Feature
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.runtime.progress import Progress

_FABRIC_PRECISION = {"32": "32-true", "bf16": "bf16-mixed"}
_PARENT = "SSMTL_PARENT"  # which process starts the others of a run on this machine
_LAST_SECONDS = 5.0  # for the other processes to end after the first one
_FABRIC_ENVIRONMENT = {"torchrun": TorchElasticEnvironment, "SLURM": SLURMEnvironment, "Fabric": LightningEnvironment}


def make_fabric(
    machine: Machine, progress: Progress, devices: int = 1, nodes: int = 1, strategy: str = "auto"
) -> Fabric:
    """Set up devices, precision and strategy by Lightning Fabric; nothing is launched yet.

    Raises:
        UsageError: Fabric refuses the combination of accelerator, devices, strategy and precision, or this is one of
            several processes that nothing connects.
    """
    by = launch(devices, nodes).by
    precision = choose_precision(machine, progress)
    try:
        return Fabric(
            accelerator=machine.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=_shared(strategy) if devices * nodes > 1 else strategy,
            precision=_FABRIC_PRECISION[precision],  # type: ignore[arg-type]
            plugins=[_FABRIC_ENVIRONMENT[by]()],
        )
    except (ValueError, RuntimeError, TypeError, ImportError, MisconfigurationException) as error:
        raise UsageError(
            f"accelerator {machine.accelerator!r}, devices {devices}, nodes {nodes}, strategy {strategy!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _shared(strategy: str) -> DDPStrategy:
    """How several processes share the work: gradients lie where they are summed, and not a second time beside it."""
    unused = strategy == "ddp_find_unused_parameters_true"
    return DDPStrategy(gradient_as_bucket_view=True, find_unused_parameters=unused)


def connect(fabric: Fabric) -> None:
    """Start the other processes of a run, if it has any, and join them; they exit when this one is gone.

    Fabric's own observer of the processes that it starts would kill this one, even while it saves, when one of them
    fails; `heartbeat` watches them instead.

    Raises:
        UsageError: what the launcher says about them does not fit devices and nodes.
        SsmtlError: they cannot be reached.
    """
    if parent := os.environ.get(_PARENT):
        threading.Thread(target=_leave_with, args=(int(parent),), daemon=True).start()
    os.environ[_PARENT] = str(os.getpid())  # for the children that are started now, and no others
    try:
        fabric.launch()
    except ValueError as error:
        raise UsageError(f"the run's processes cannot be connected: {str(error).splitlines()[0]}") from error
    except (RuntimeError, KeyError) as error:
        raise SsmtlError(
            f"the run's processes cannot be connected: {str(error).splitlines()[0]}; check that all are started, "
            f"and MASTER_ADDR and MASTER_PORT if they are set"
        ) from error
    finally:
        del os.environ[_PARENT]
    if children := _taken_over(fabric):
        atexit.register(_end, children)
    atexit.register(_disconnect)  # this one first


def _taken_over(fabric: Fabric) -> list[subprocess.Popen[bytes]]:
    """The processes that Fabric has started; its observer, which shares the list, sees none and ends."""
    shared: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    children = shared.copy()
    shared.clear()
    return children


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Leave no process behind: wait for those that are about to end, and kill those that hang."""
    until = time.monotonic() + _LAST_SECONDS
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()


def _disconnect() -> None:
    """Leave the group before the interpreter goes: its threads would end the process by SIGABRT now and then.

    Not at the end of a run: the next one in this process meets the same group again.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _leave_with(parent: int) -> None:
    """Wait for the end of the process that started this one; without it a collective would wait for half an hour."""
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(_LAST_SECONDS)  # in which the training ends by itself, and says why
    sys.stderr.write(f"error: rank 0 (process {parent}) ended without a message: killed, or out of memory\n")
    os._exit(1)


def agree(fabric: Fabric, problem: SsmtlError | None = None) -> None:
    """Raise on all processes the problem that the first one has, if any."""
    problem = fabric.broadcast(problem)
    if problem is not None:
        raise problem


def choose_precision(machine: Machine, progress: Progress) -> str:
    """Resolve `auto`: bf16 on a GPU that computes with it, 32 elsewhere (a CPU without it is 20 times slower)."""
    cuda = machine.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    if machine.precision == "auto":
        return "bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if machine.precision == "bf16" and not cuda and not computes_bf16():
        progress.note("bf16 was requested on a CPU that must emulate it: expect it to be many times slower than 32")
    return machine.precision


def computes_bf16() -> bool:
    """Whether this CPU has instructions for bf16, and need not emulate it."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


def compile_parts(backbone: Backbone, needs: Collection[Feature]) -> None:
    """Compile encoder and decoder (torch.compile), so that gradients of single tasks can go through them too.

    If no task `needs` more, the decoder then returns its first map alone: a compiled backward pass goes through all
    that a compiled forward pass has returned, with zeros for what nobody has read.
    """
    from torch._functorch import config

    if hasattr(config, "donated_buffer"):  # buffers given away by one backward pass would be missing in the next
        config.donated_buffer = False
    if "decoded" not in needs:
        _hand_out_first_map(backbone.decoder)
    backbone.encoder.compile()
    backbone.decoder.compile()


def _hand_out_first_map(decoder: nn.Module) -> None:
    """Change what a decoder returns, in place: its weights keep their names (a hook's work would not be compiled)."""
    cls: Any = type(decoder)

    class FirstMap(cls):  # type: ignore[misc]
        def forward(self, maps: Sequence[Tensor]) -> Tensor:
            decoded: Tensor | Sequence[Tensor] = super().forward(maps)
            return decoded if isinstance(decoded, Tensor) else decoded[0]

    decoder.__class__ = FirstMap


def seed_all(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of this device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
