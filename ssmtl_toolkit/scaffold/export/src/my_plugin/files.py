"""Weights in a .pth file, and back."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import torch
from torch import nn

WEIGHTS = "weights.pth"


def write_weights(module: nn.Module, folder: Path, key: str) -> str:
    """Write the tensors of `module`; return how they are opened."""
    stream = io.BytesIO()  # torch ends the process where it finds the disk full itself
    torch.save({key: module.state_dict()}, stream)
    (folder / WEIGHTS).write_bytes(stream.getbuffer())
    return f"`torch.load({WEIGHTS!r}, weights_only=True)[{key!r}]`"


def with_weights(module: nn.Module, folder: Path, key: str) -> nn.Module:
    """A copy of `module` with the weights of the file."""
    loaded = copy.deepcopy(module)
    loaded.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True)[key])
    return loaded
