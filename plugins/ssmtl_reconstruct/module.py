"""The auxiliary decoder g of eq. 1: one 1x1 convolution on the backbone's dense map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_reconstruct import ReconstructSpec
from ssmtl_toolkit.engine.baselines import trivial_answers
from ssmtl_toolkit.engine.masking import Masking
from ssmtl_toolkit.engine.step import Companion, Pictures, Step, TaskOutput


class Reconstruct(nn.Module):
    """Mean squared error between g(fθ(anchor)) and the companion slice, over the pairs that exist.

    With `mask` the network sees the anchor with patches covered, and what is compared with it are copies of what is
    left: the whole anchor is no answer that it could give without learning.
    """

    def __init__(self, dense_channels: int, image_channels: int, spec: ReconstructSpec) -> None:
        super().__init__()
        self.decode = nn.Conv2d(dense_channels, image_channels, kernel_size=1)
        self.masking = Masking(spec.mask, spec.patch, spec.fill) if spec.mask else None

    def forward(self, step: Step) -> TaskOutput:
        target = step.companion("target")
        seen, visible = self._anchors(step)
        predicted, truth = self._predicted(step, target, seen), target.image.float()
        loss = F.mse_loss(predicted, truth, reduction="sum") / max(truth.numel(), 1)
        return TaskOutput(loss, trivial_answers(target.of(visible).float(), truth), pairs=len(truth))

    def pictures(self, step: Step) -> Pictures:
        """The slice to reconstruct, what comes of the anchor, and the difference."""
        target = step.companion("target")
        seen, _ = self._anchors(step)
        predicted, truth = self._predicted(step, target, seen), target.image.float()
        given = {} if self.masking is None else {"seen": target.of(seen)}
        images = {**given, "target": truth, "reconstruction": predicted}
        return Pictures(
            images, {"error": predicted - truth, "error of copying": target.of(step.anchor) - truth}, target.rows
        )

    def _predicted(self, step: Step, target: Companion, seen: Tensor) -> Tensor:
        return target.of(self.decode(step.encode(seen).dense)).float()

    def _anchors(self, step: Step) -> tuple[Tensor, Tensor]:
        """What the network sees of them, and what of them is not covered."""
        if self.masking is None:
            return step.anchor, step.anchor
        masked = self.masking.of(step)
        return masked.image, masked.visible
