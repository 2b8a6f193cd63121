"""What is drawn or gathered on the CPU, sent to the device that computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; a GPU is sent it without waiting for what it does."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def sent_together(columns: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Arrays (n,) of numbers on the device, by one transfer."""
    words = [-(-column.nbytes // 8) for column in columns]  # of 8 bytes, where any type may begin
    packed = np.zeros(sum(words), dtype=np.int64)
    for column, place in zip(columns, np.split(packed, np.cumsum(words)[:-1]), strict=True):
        place.view(column.dtype)[: len(column)] = column
    parts = sent(torch.from_numpy(packed), device).split(words)
    kinds = [torch.from_numpy(column[:0]).dtype for column in columns]
    return [part.view(kind)[: len(column)] for part, kind, column in zip(parts, kinds, columns, strict=True)]
