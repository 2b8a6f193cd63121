"""The classifier of quarter turns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.step import Step, TaskOutput

TURNS = 4


class Rotation(nn.Module):
    """Cross-entropy of a linear layer on the pooled features of turned anchors, each turned by its own number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.classify = nn.Linear(channels, TURNS)

    def forward(self, step: Step) -> TaskOutput:
        number = torch.randint(TURNS, (len(step.anchor),), device=step.anchor.device)
        logits = self.classify(step.encode(turned(step.anchor, number)).pooled).float()
        accuracy = (logits.detach().argmax(dim=1) == number).float().mean()
        metrics = {"chance": logits.new_tensor(math.log(TURNS)), "accuracy": accuracy}
        return TaskOutput(F.cross_entropy(logits, number), metrics, pairs=len(number))


def turned(image: Tensor, number: Tensor) -> Tensor:
    """Turn each of `image` (N, C, H, H) by `number` (N,) quarter turns, counter-clockwise."""
    all_turns = torch.stack([torch.rot90(image, turns, dims=(2, 3)) for turns in range(TURNS)])
    return all_turns[number, torch.arange(len(image), device=image.device)]
