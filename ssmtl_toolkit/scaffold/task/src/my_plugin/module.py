"""The layer that is trained with the backbone, and its loss."""

from __future__ import annotations

import math

from ssmtl_toolkit.engine.step import Step, TaskOutput
from torch import nn
from torch.nn import functional as F


class RelativePosition(nn.Module):
    """Cross-entropy of one linear layer on the difference of both slices' features: before (0) or after (1)."""

    def __init__(self, channels: int) -> None:
        # The backbone is not kept as a submodule: its weights would be in the checkpoint once for each task.
        super().__init__()
        self.classify = nn.Linear(channels, 2)

    def forward(self, step: Step) -> TaskOutput:
        other = step.companion("other")
        anchor = other.of(step.features().pooled)  # (M, channels): anchors at the end of a scan may have no companion
        if not len(other.image):
            return TaskOutput.nothing(self.classify(anchor))  # a loss of 0, on the graph of all weights
        difference = step.encode(other.image).pooled - anchor
        logits = self.classify(difference).float()  # losses in float32, even if the network runs in bfloat16
        after = (other.offsets > 0).long()
        loss = F.cross_entropy(logits, after)
        chance = loss.new_tensor(math.log(2))
        accuracy = (logits.argmax(dim=1) == after).float().mean()
        return TaskOutput(loss, {"chance": chance, "accuracy": accuracy}, pairs=len(after))
