"""Which process of a run this is, from what launchers say in the environment; before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.numerals import is_plain
from ssmtl_toolkit.text import counted, printable

_OF_TORCH = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE")
_OF_SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_NUMBERS = (*_OF_TORCH, *_OF_SLURM, "MASTER_PORT", "JSM_NAMESPACE_RANK")  # lightning reads them on import
_Numbers: TypeAlias = Mapping[str, int | None]


@dataclass(frozen=True)
class Launch:
    """What connects the processes of a run, and which of them this is.

    `started`: the others are running, or are started elsewhere; otherwise Fabric starts them from this process.
    """

    by: Literal["torchrun", "SLURM", "Fabric"] = "Fabric"
    rank: int = 0
    started: bool = False


def launch(devices: int = 1, nodes: int = 1) -> Launch:
    """Find out which process this is of a run on this many devices (on each machine) and nodes (machines).

    A rank in the environment counts only if the processes really are connected: by torchrun, by SLURM, or by Fabric's
    own launcher (its children, or processes started by hand as it documents). Any other value is left over from
    something else; it is removed from the environment, as Fabric and torch would believe it.

    Raises:
        UsageError: a variable is not a number, or this is one of several processes that nothing connects.
    """
    numbers = {name: _number(name) for name in _NUMBERS}
    process = _by_torchrun(numbers, devices, nodes) or _by_slurm(numbers, devices, nodes)
    process = process or _by_hand(numbers, devices, nodes)
    if process is None:
        if (numbers["WORLD_SIZE"] or 1) > 1:
            raise _copies(
                "a launcher (according to WORLD_SIZE; unset it if it is left over)",
                numbers["WORLD_SIZE"],
                devices,
                nodes,
            )
        for name in _OF_TORCH:
            os.environ.pop(name, None)
    return process or Launch()


def _number(name: str) -> int | None:
    """A variable's value; None if it is not set, empty or negative, which some launchers use for "not set"."""
    text = os.environ.get(name, "").strip()
    if not text:
        os.environ.pop(name, None)
        return None
    try:
        if not is_plain(text):
            raise ValueError(text)
        return int(text) if int(text) >= 0 else None
    except ValueError:
        raise UsageError(
            f"environment variable {name}: expected a number, got '{printable(text[:80])}'; unset it, or correct it"
        ) from None


def _by_torchrun(numbers: _Numbers, devices: int, nodes: int) -> Launch | None:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    if (numbers["WORLD_SIZE"] or 1) != devices * nodes:
        raise _copies("torchrun", numbers["WORLD_SIZE"], devices, nodes)
    return _ranked("torchrun", numbers, ("RANK", "LOCAL_RANK"), devices * nodes)


def _by_slurm(numbers: _Numbers, devices: int, nodes: int) -> Launch | None:
    """Tasks of srun; not the shell of an allocation, which has no SLURM_PROCID, nor a single task."""
    tasks = numbers["SLURM_NTASKS"] or 1
    if tasks == 1 or numbers["SLURM_PROCID"] is None:
        return None
    connected = os.environ.get("SLURM_JOB_NAME") not in {"bash", "interactive"}  # Fabric leaves tasks of these alone
    if not connected and _by_hand(numbers, devices, nodes):
        return None
    if not connected or tasks != devices * nodes:
        raise _copies("SLURM", tasks, devices, nodes)
    return _ranked("SLURM", numbers, ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), tasks)


def _ranked(by: Literal["torchrun", "SLURM"], numbers: _Numbers, names: Sequence[str], wanted: int) -> Launch | None:
    """The process that a launcher's variables name; None for a run of one process, whatever they say."""
    if wanted == 1:
        return None
    for name in names:
        if (value := numbers[name]) is None or value >= wanted:
            raise UsageError(
                f"{by}: environment variable {name} is {value}, expected 0 to {wanted - 1}; "
                f"unset it, and let {by} start the processes"
            )
    return Launch(by, numbers[names[0]] or 0, started=True)


def _by_hand(numbers: _Numbers, devices: int, nodes: int) -> Launch | None:
    """Children of Fabric's launcher, or by hand: one process for each device, or one for each machine."""
    wanted, local = devices * nodes, numbers["LOCAL_RANK"]
    if wanted == 1:
        return None
    node = numbers["GROUP_RANK"] if numbers["NODE_RANK"] is None else numbers["NODE_RANK"]
    whole = numbers["MASTER_PORT"] is not None and numbers["WORLD_SIZE"] in {None, wanted}
    if nodes > 1 and (node is None or not whole or not os.environ.get("MASTER_ADDR")):
        raise UsageError(
            f"--nodes {nodes}: nothing connects the machines; start the run by torchrun or SLURM's srun, or set "
            f"NODE_RANK, MASTER_ADDR and MASTER_PORT on each of them"
        )
    if nodes == 1 and (local is None or not whole):
        return None
    rank = (node or 0) * devices + (local or 0)
    allowed_ranks = {None, rank} if local is not None else {None, rank, node}
    if (local or 0) >= devices or rank >= wanted or numbers["RANK"] not in allowed_ranks:
        variables = ", ".join(f"{name}={numbers[name]}" for name in _OF_TORCH if numbers[name] is not None)
        raise UsageError(
            f"environment variables {variables} do not fit --devices {devices} --nodes {nodes}; correct or unset them"
        )
    if local is None:
        os.environ.pop("RANK", None)  # the machine's; Fabric's children on it have other ranks
    return Launch("Fabric", rank, started=True)


def _copies(by: str, started: int | None, devices: int, nodes: int) -> UsageError:
    """The error for one of several processes that would each train the same thing."""
    number, wanted = started or 1, f"{counted(devices, 'device')} on {counted(nodes, 'node')}"
    return UsageError(
        f"{by} started {number} process{'es' * (number > 1)}, but this run needs {wanted}: they would train {number} "
        f"copies into one folder; start one process, or as many by torchrun or SLURM's srun (in a batch script) as "
        f"--devices and --nodes say"
    )
