"""The processes of a run: how many, which this is, and sums and lists over all of them."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def world() -> int:
    """The number of processes, 1 if the run has only this one."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def sum_over_ranks(part: Tensor) -> Tensor:
    """The sum of all ranks' tensors, on each of them."""
    if world() == 1:
        return part
    total = part.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def gather(part: Tensor) -> Tensor:
    """Concatenate `part` (N, …), of one shape everywhere, of all ranks, in the order of ranks."""
    if world() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(world())]
    distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts)
