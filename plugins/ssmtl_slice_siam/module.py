"""The predictor h and the negative cosine similarity of eq. 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.step import Step, TaskOutput


class SliceSiam(nn.Module):
    """-cos(h(q(anchor)), stop-gradient(q(positive))), mean over the pairs that exist; not symmetrised."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        hidden = max(channels // 4, 1)
        between = nn.BatchNorm1d(hidden) if norm == "batch" else nn.Identity()
        self.predict = nn.Sequential(
            nn.Linear(channels, hidden), between, nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )

    def forward(self, step: Step) -> TaskOutput:
        positive = step.companion("positive")
        anchor = step.features().pooled
        predicted = positive.of(self.predict(anchor)).float()
        if len(positive.image) < 2:  # batch norm has no statistics for a single slice
            return TaskOutput.nothing(predicted)
        with torch.no_grad():
            truth = step.encode(positive.image).pooled.float()
        loss = -F.cosine_similarity(predicted, truth).mean()
        return TaskOutput(loss, self._health(predicted.detach(), truth), pairs=len(truth))

    @staticmethod
    def _health(predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Reveal a collapse: random pairs must be less alike than true ones, and features must spread.

        `spread` is the standard deviation of the L2-normalised features times √C: 1 is healthy, 0 collapsed
        (SimSiam, section 4.1).
        """
        random = F.cosine_similarity(predicted, truth.roll(1, dims=0)).mean()
        spread = F.normalize(truth).std(dim=0, correction=0).mean() * truth.shape[1] ** 0.5
        return {"random": -random, "spread": spread}
