"""What unlabelled slices add to the loss."""

from __future__ import annotations

from ssmtl_toolkit.engine.semi import PseudoLabels, Semi, SemiOutput, SemiStep


class LowEntropy(Semi):
    """The mean over pixels of -sum p log p over the classes, times a weight that rises at first.

    A network that knows nothing yet should not decide: so the weight rises from 0 to its full value in the first `ramp`
    of the time with unlabelled slices.
    """

    # State that changes from step to step, but is not trained, belongs in a buffer: those are saved and resumed.

    def __init__(self, weight: float, ramp: float) -> None:
        super().__init__()
        self.weight = weight
        self.ramp = ramp

    def forward(self, step: SemiStep) -> SemiOutput:
        _, changed = step.augmenter.weak_and_strong(step.batch.anchor)
        log_p = step.head(step.backbone(changed)).float().log_softmax(dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
        best, labels = log_p.detach().exp().max(dim=1)
        # The run watches these labels and says so if a class vanishes from them.
        pseudo = PseudoLabels(labels, sure=best > 0.5)
        risen = min(1.0, step.progress / self.ramp) if self.ramp else 1.0
        return SemiOutput(self.weight * risen * entropy, pseudo)
