"""Pretext tasks beside the labels."""

from __future__ import annotations

import torch

from ssmtl_toolkit.engine.semi import Semi, SemiOutput, SemiStep


class Pretext(Semi):
    """The sum of the tasks' losses, times `weight`."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, step: SemiStep) -> SemiOutput:
        losses = [output.loss.float() for output in step.tasks().values()]
        return SemiOutput(self.weight * torch.stack(losses).sum())
