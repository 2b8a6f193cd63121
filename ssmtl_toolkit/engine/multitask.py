"""The backbone and all tasks as one module: a batch in, the total loss and each task's output out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ssmtl_toolkit.engine.auto_weight import AutoWeights
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.balancer import Balancer, Shared
from ssmtl_toolkit.engine.building import built
from ssmtl_toolkit.engine.contract import Untouched, check_factors, check_loss, check_output
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, Step, TaskOutput
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.features import PARTS, Feature, meeting_of, parts_of
from ssmtl_toolkit.foreign import staying
from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, TaskSpec, named

Watch = Callable[[Mapping[str, Tensor], Shared], None]
"""Sees the losses of a batch and what they share, while their graph is there."""


class MultiTask(nn.Module):
    """Hard parameter sharing (paper, Fig. 4b): one backbone, one small module for each task.

    Parts that no task reads are not trained: with MoCo V2 alone the decoder stays as it was made.

    Attributes:
        named: what errors call each task, by its label, and the balancer, by "".
        running: the label of the task whose forward is under way, or failed; None outside of all.
        balancing: whether the balancer's forward is under way, or failed.
        tried: whether tasks have been looked at closely, in the first batch.
    """

    named: Mapping[str, str] = {}
    running: str | None = None
    balancing: bool = False
    tried: bool = False

    def __init__(
        self,
        backbone: Backbone,
        tasks: Mapping[str, nn.Module],
        balancer: Balancer,
        meeting: Feature = "pyramid",
        auto: AutoWeights | None = None,
    ) -> None:
        """`meeting`: the maps that all is made of which the tasks that count read; `auto`: sets weights that are."""
        super().__init__()
        self.backbone = backbone
        self.labels = list(tasks)
        self.tasks = nn.ModuleList(tasks.values())  # labels have dots, which ModuleDict refuses
        self.balancer = balancer
        self.meeting = meeting
        self.auto = auto

    @classmethod
    def build(
        cls, backbone: BackboneSpec, tasks: Sequence[TaskSpec], balancer: BalancerSpec, channels: int
    ) -> MultiTask:
        """Make all modules for images of so many channels, from torch's global generator.

        Their order is backbone, tasks, balancer.
        """
        network = built(backbone, channels)
        modules = {str(task): built(task, network) for task in tasks}
        _check_apart(network, {named(task): modules[str(task)] for task in tasks})
        trained = parts_of(feature for task in tasks for feature in task.needs)
        for part in PARTS:
            if part not in trained:
                network.get_submodule(part).requires_grad_(False)
        weighing = built(balancer, {str(task): _weighted(task) for task in tasks})
        meeting = meeting_of(feature for task in tasks if task.weight for feature in task.needs)
        auto = balancer.weighs and any(task.weight == "auto" for task in tasks)
        weights = AutoWeights({str(task): task for task in tasks}) if auto else None
        model = cls(network, modules, weighing, meeting, weights)
        model.named = {"": named(balancer)} | {str(task): named(task) for task in tasks}
        return model

    def forward(
        self, batch: Batch, watch: Watch | None = None, measure: bool = False
    ) -> tuple[Tensor, dict[str, TaskOutput]]:
        """The scalar to descend, and each task's output.

        `watch` looks on at what the balancer gets; `measure`: first set the weights that are auto by this batch.
        """
        encode = SharedEncoder(self.backbone)
        outputs = self.outputs(batch, encode)
        losses = {label: output.loss for label, output in outputs.items()}
        shared = Shared(batch, self.backbone, encode, outputs, self.meeting)
        if self.auto is not None:
            losses = self.auto(losses, shared, measure)
        if watch is not None:
            watch(losses, shared)
        self.balancing = True
        total = self.balancer(losses, shared)
        check_loss(self.called(""), total, batch.anchor)
        check_factors(self.called(""), self.balancer.factors, losses)
        self.balancing = False
        return total, outputs

    def called(self, label: str) -> str:
        """What errors call a task, or for "" the balancer."""
        return self.named.get(label, f"task {label!r}" if label else "the balancer")

    def outputs(self, batch: Batch, encode: SharedEncoder) -> dict[str, TaskOutput]:
        """Each task's output, by label."""
        outputs: dict[str, TaskOutput] = {}
        made: dict[Hashable, Any] = {}
        untouched = Untouched(batch, encode, thorough=not self.tried)
        for label, task in zip(self.labels, self.tasks, strict=True):
            self.running, self.balancing = label, False
            part = self.called(label)
            with staying(part):
                output = task(Step(batch, encode, batch.companions.get(label, {}), made))
            untouched.check(part)
            outputs[label] = check_output(part, output, batch.anchor)
        self.running, self.tried = None, True
        return outputs


def _weighted(task: TaskSpec) -> TaskSpec:
    """The task as balancers see it: its weight is a number."""
    return task.model_copy(update={"weight": task.given_weight}) if task.weight == "auto" else task


def _check_apart(backbone: Backbone, tasks: Mapping[str, nn.Module]) -> None:
    """Refuse a task that has the backbone inside: its weights would be saved, and moved, twice."""
    shared = {id(parameter) for parameter in backbone.parameters()}
    for called, task in tasks.items():
        names = [name for name, parameter in task.named_parameters() if id(parameter) in shared]
        if names:
            raise SsmtlError(
                f"{called}: its {names[0]} and {len(names) - 1} more are the backbone's own; "
                f"use step.features() and step.encode(), or keep the backbone in a list"
            )
