"""Weights in a .pth file, and back."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

WEIGHTS = "weights.pth"


def write_weights(module: nn.Module, folder: Path, key: str) -> str:
    """Write the tensors of `module`; return how they are opened."""
    torch.save({key: module.state_dict()}, folder / WEIGHTS)
    return f"`torch.load({WEIGHTS!r}, weights_only=True)[{key!r}]`"


def with_weights(module: nn.Module, folder: Path, key: str) -> nn.Module:
    """A copy of `module` with the weights of the file."""
    loaded = copy.deepcopy(module)
    loaded.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True)[key])
    return loaded
