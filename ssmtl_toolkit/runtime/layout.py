"""The memory layout of images in a training: on a CPU the faster one, found by a trial of a few steps."""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ssmtl_toolkit.config import Training
from ssmtl_toolkit.runtime.device import choose_precision, computes_bf16
from ssmtl_toolkit.runtime.progress import Progress

Layout = Literal["auto", "on", "off"]
Network = TypeVar("Network", bound=nn.Module)

SHARE = 0.02
"""The largest share of a training's steps that may go into a trial."""
SECONDS = 2.0
"""After this time a trial ends, if every way had its fewest turns."""
MARGIN = 0.95
"""Channels last is taken if a step takes at most so much of the time: less may be chance."""
_FEWEST, _MOST = 3, 15


class Way(NamedTuple):
    """How the steps of a trial are computed."""

    layout: torch.memory_format
    bf16: bool = False


_FIRST, _LAST, _HALF = Way(torch.contiguous_format), Way(torch.channels_last), Way(torch.channels_last, bf16=True)


def in_layout(model: nn.Module, layout: Layout, fabric: Fabric) -> None:
    """Bring the network's weights into this layout, in place; auto: channels last on a GPU alone."""
    if layout == "on" or (layout == "auto" and fabric.device.type == "cuda"):
        model.to(memory_format=torch.channels_last)


def choose_layout(
    config: Training,
    fabric: Fabric,
    steps: int,
    trial: Callable[[], tuple[Network, Callable[[Network], Tensor]]],
    progress: Progress,
) -> Layout:
    """Choose what `--channels-last auto` means on a CPU; other values, and auto on other devices, stay.

    `trial` returns the network and a function from such a network to its loss on a batch, if there are enough `steps`.
    Only a copy of the network is trained. Several processes try nothing: one that failed alone would leave the others
    waiting.
    """
    if config.channels_last != "auto" or fabric.device.type != "cpu":
        return config.channels_last
    half = config.precision == "auto" and computes_bf16()
    ways = [_FIRST, _LAST, *([_HALF] if half and choose_precision(config, progress) == "32" else [])]
    most = min(int(steps * SHARE) // len(ways) - 1, _MOST)  # of turns; the first is not counted
    if most < _FEWEST or fabric.world_size > 1:
        return "off"
    try:
        with torch.random.fork_rng(devices=()):
            turns = _taken(*trial(), ways, most, fabric)
    except Exception:  # whatever fails here fails in the first step too, and is explained there
        return "off"
    last, *bf16 = (_ratio(turns, i) for i in range(1, len(ways)))
    chosen: Layout = "on" if last <= MARGIN else "off"
    taken = "taken" if chosen == "on" else f"not taken, as that is above {MARGIN:g}"
    progress.say(f"memory    channels last: a step takes {last:.2f} of the time, by a trial of {len(turns)}; {taken}")
    if bf16 and bf16[0] < MARGIN * min(last, 1.0):
        progress.say(f"precision 32; this CPU computes in bf16: with --precision bf16 a step takes {bf16[0]:.2f}")
    return chosen


def _taken(
    model: Network, loss: Callable[[Network], Tensor], ways: Sequence[Way], most: int, fabric: Fabric
) -> list[Tensor]:
    """For each turn the seconds that each way took, (ways, 2): of the clock and of the CPU."""
    twin, turns, spent = copy.deepcopy(model).train(), list[Tensor](), 0.0
    for turn in range(1 + most):
        if turn > _FEWEST and spent > SECONDS:
            break
        order = [(turn + i) % len(ways) for i in range(len(ways))]
        taken = torch.zeros(len(ways), 2, dtype=torch.float64)
        for i in order:
            taken[i] = _step(twin, loss, ways[i], fabric)
        turns.append(taken)
        spent += float(taken[:, 0].sum())
    return turns[1:]


def _step(model: Network, loss: Callable[[Network], Tensor], way: Way, fabric: Fabric) -> Tensor:
    model.to(memory_format=way.layout)
    half = torch.autocast("cpu", torch.bfloat16) if way.bf16 else contextlib.nullcontext()
    before = _clocks()
    with fabric.autocast(), half:
        value = loss(model)
    value.backward()
    after = _clocks()
    model.zero_grad(set_to_none=True)
    return torch.tensor([b - a for a, b in zip(before, after, strict=True)], dtype=torch.float64)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _ratio(turns: Sequence[Tensor], way: int) -> float:
    """Median of how much of the first way's time this one takes, by the clock that is worse for it."""
    return max(statistics.median((turn[way] / turn[0])[clock].item() for turn in turns) for clock in (0, 1))
