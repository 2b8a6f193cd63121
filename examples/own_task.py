"""Your own pretext task in a notebook or script, without a package: is the other slice before or after the anchor?

python examples/own_task.py SCANS OUT
"""

import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

import ssmtl_toolkit as ssmtl
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.step import Step, TaskOutput
from ssmtl_toolkit.specs import Feature, TaskSpec


class SliceOrder(TaskSpec):
    """Tell from pooled features whether the companion lies before or after the anchor."""

    name: ClassVar[str] = "slice_order"
    needs: ClassVar[frozenset[Feature]] = frozenset({"pooled"})
    metrics: ClassVar[tuple[str, ...]] = ("chance",)
    baselines: ClassVar[tuple[str, ...]] = ("chance",)

    t: int = Field(3, ge=1, description="Distance in slices.")

    def companions(self, spacing: float) -> Mapping[str, Sequence[int]]:
        return {"before": (-self.t,), "after": (self.t,)}

    def build(self, backbone: Backbone) -> nn.Module:
        return SliceOrderModule(backbone.pooled_channels)


class SliceOrderModule(nn.Module):
    """A linear layer on the difference of two slices' features, and the logistic loss."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.classify = nn.Linear(channels, 1)

    def forward(self, step: Step) -> TaskOutput:
        logits, truth = [], []
        for name, answer in (("before", 0.0), ("after", 1.0)):
            companion = step.companion(name)
            if len(companion.image):
                difference = step.encode(companion.image).pooled - companion.of(step.features().pooled)
                logits.append(self.classify(difference)[:, 0])
                truth.append(torch.full_like(logits[-1], answer))
        both, right = torch.cat(logits).float(), torch.cat(truth).float()
        chance = F.binary_cross_entropy_with_logits(torch.zeros_like(right), right)
        return TaskOutput(F.binary_cross_entropy_with_logits(both, right), {"chance": chance}, pairs=len(both))


def main(scans: str, out: str) -> None:
    run = ssmtl.pretrain(
        backbone="unet:encoder=resnet18",
        tasks=["reconstruct_next:t=3", SliceOrder(t=3)],
        data=scans,
        out=out,
        size=48,
        steps=20,
    )
    print(run.summary["tasks"])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["phantom:patients=4", "runs/own_task"]))
