"""The backbone and all tasks as one module: a batch in, the total loss and each task's output out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, Step, TaskOutput
from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, TaskSpec


class Balancer(nn.Module):
    """Base of what `BalancerSpec.build` returns: `forward(losses: Mapping[label, scalar]) -> scalar` to descend."""

    def __call__(self, losses: Mapping[str, Tensor]) -> Tensor:
        total: Tensor = super().__call__(losses)
        return total


class MultiTask(nn.Module):
    """Hard parameter sharing (paper, Fig. 4b): one backbone, one small module for each task.

    Parts that no task reads are not trained: with MoCo V2 alone the decoder stays as it was made.
    """

    def __init__(self, backbone: Backbone, tasks: Mapping[str, nn.Module], balancer: Balancer) -> None:
        super().__init__()
        self.backbone = backbone
        self.labels = list(tasks)
        self.tasks = nn.ModuleList(tasks.values())  # labels have dots, which ModuleDict refuses
        self.balancer = balancer

    @classmethod
    def build(cls, backbone: BackboneSpec, tasks: Sequence[TaskSpec], balancer: BalancerSpec) -> MultiTask:
        """Make all modules, from torch's global generator, in the order backbone, tasks, balancer."""
        network = backbone.build(1)
        modules = {str(task): task.build(network) for task in tasks}
        if not any("dense" in task.needs for task in tasks):
            network.decoder.requires_grad_(False)
        return cls(network, modules, balancer.build({str(task): task for task in tasks}))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, TaskOutput]]:
        encode = SharedEncoder(self.backbone)
        outputs: dict[str, TaskOutput] = {}
        for label, task in zip(self.labels, self.tasks, strict=True):
            outputs[label] = task(Step(batch, encode, batch.companions.get(label, {})))
        return self.balancer({label: output.loss for label, output in outputs.items()}), outputs
