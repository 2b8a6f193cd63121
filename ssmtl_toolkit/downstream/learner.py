"""What a fine-tuning learns from unlabelled slices: the method of `--semi` at work on one network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.downstream.unlabelled import Unlabelled
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.building import built
from ssmtl_toolkit.engine.contract import check_loss, check_output
from ssmtl_toolkit.engine.semi import PseudoLabels, SemiOutput, SemiStep
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, Step, TaskOutput
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.specs import named


class Learner(nn.Module):
    """The method of `--semi` on one network, with the modules of its pretext tasks: all that is trained beside it."""

    def __init__(
        self,
        config: ResolvedFinetune,
        unlabelled: Unlabelled,
        model: Downstream,
        fabric: Fabric,
        seed: int,
        augmenter: Augmenter,
    ) -> None:
        super().__init__()
        assert config.semi is not None
        self._spec, self._fabric, self._augmenter = config.semi, fabric, augmenter
        self._model = [model]  # in a list: its weights are not ours
        self.method = built(config.semi)
        self._labels = [str(task) for task in unlabelled.tasks]
        self._named = {str(task): named(task) for task in unlabelled.tasks}
        self._weights = [task.given_weight for task in unlabelled.tasks]
        self.tasks = nn.ModuleList(built(task, model.backbone) for task in unlabelled.tasks)
        self._load = unlabelled.loader(config, seed, fabric.device)
        self._first, self._steps = config.labelled_steps, config.steps
        self.to(fabric.device)

    def forward(self, step: int, teach: Callable[[Tensor], Tensor]) -> SemiOutput | None:
        """The loss on the unlabelled slices of the update after `step` others; None: they are not used yet."""
        if step < self._first:
            return None
        batch = self._augmenter.with_views(self._load(step - self._first))
        with foreign(f"{named(self._spec)}, step {step + 1},"), self._fabric.autocast():
            return _checked(named(self._spec), self.method(self.seen(batch, step, teach)), batch.anchor)

    @property
    def model(self) -> Downstream:
        """The network that learns; it is no part of this module."""
        return self._model[0]

    def seen(self, batch: Batch, step: int, teach: Callable[[Tensor], Tensor]) -> SemiStep:
        """What the method sees of a batch in the update after `step` others."""
        model = self.model
        return SemiStep(
            batch=batch,
            augmenter=self._augmenter,
            progress=(step - self._first) / max(self._steps - 1 - self._first, 1),
            backbone=model.backbone,
            head=model.head,
            loss=model.loss,
            teach=teach,
            tasks=lambda: self._outputs(batch),
        )

    def _outputs(self, batch: Batch) -> Mapping[str, TaskOutput]:
        """The tasks' outputs, each loss times its task's weight."""
        encode = SharedEncoder(self.model.backbone)
        outputs, made = {}, dict[Hashable, Any]()
        for label, weight, task in zip(self._labels, self._weights, self.tasks, strict=True):
            output = task(Step(batch, encode, batch.companions.get(label, {}), made))
            output = check_output(self._named[label], output, batch.anchor)
            outputs[label] = output._replace(loss=weight * output.loss)
        return outputs


def _checked(part: str, output: Any, image: Tensor) -> SemiOutput:
    """What a method gives for slices (N, C, H, W).

    Raises:
        SsmtlError: it is no scalar loss, or pseudo labels of another shape or type.
    """
    if not isinstance(output, SemiOutput):
        raise SsmtlError(f"{part}: its forward gives {type(output).__name__}; give SemiOutput(loss, pseudo)")
    check_loss(part, output.loss, image, trained=False)
    if isinstance(output.pseudo, PseudoLabels):
        wanted = (len(image), *image.shape[2:])
        for name, tensor, kind in zip(PseudoLabels._fields, output.pseudo, (torch.int64, torch.bool), strict=True):
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != wanted or tensor.dtype != kind:
                raise SsmtlError(f"{part}: its pseudo.{name} is {_described(tensor)}; give {wanted} of {kind}")
    elif output.pseudo is not None:
        raise SsmtlError(f"{part}: its pseudo is {_described(output.pseudo)}; give PseudoLabels(labels, sure), or None")
    return output


def _described(value: Any) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
