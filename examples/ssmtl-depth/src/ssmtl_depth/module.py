"""The regression of a slice's depth in its scan."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.step import Position, Step, TaskOutput


class Depth(nn.Module):
    """Mean squared error of a linear layer on the pooled features of the anchors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.predict = nn.Linear(channels, 1)

    def forward(self, step: Step) -> TaskOutput:
        depth = depth_of(step.position)
        predicted = self.predict(step.features().pooled).float()[:, 0]
        constant = F.mse_loss(depth.mean().expand_as(depth), depth)  # the same answer for every anchor
        return TaskOutput(F.mse_loss(predicted, depth), {"constant": constant}, pairs=len(depth))


def depth_of(position: Position) -> Tensor:
    """Return how deep in its scan each slice lies, (N,): the first at 0, the last at 1; an only slice at 0."""
    return position.index / (position.count - 1).clamp(min=1)
