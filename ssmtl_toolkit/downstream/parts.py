"""Which parts of a network learn, when, and at which rate."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.features import PARTS, Part


class Parts:
    """The parts of one network; `pretrained` are those whose weights come from a pre-training."""

    def __init__(self, model: Downstream, config: ResolvedFinetune, pretrained: Collection[Part]) -> None:
        self._model, self._config = model, config
        self._pretrained = [part for part in PARTS if part in pretrained]

    def groups(self) -> list[dict[str, Any]]:
        """For the optimizer: the parameters that ever learn, with the rate of their part."""
        for part in self._config.frozen_parts:
            self._module(part).requires_grad_(False)
        rates = [(self._module(part), self._rate(part)) for part in PARTS]
        rates.append((self._model.head, self._config.lr))
        groups = [{"params": [p for p in part.parameters() if p.requires_grad], "lr": rate} for part, rate in rates]
        return [group for group in groups if group["params"]]

    def train_mode(self, step: int) -> None:
        """Set what learns in the update after `step` others.

        Frozen parts stay in eval mode: their batch norm keeps its statistics too.
        """
        self._model.train()
        waiting = self._pretrained if step < self._config.frozen_steps else []
        for part in (*self._config.frozen_parts, *waiting):
            self._module(part).eval()
        if self._config.frozen_steps:
            for part in self._pretrained:
                if part not in self._config.frozen_parts:
                    self._module(part).requires_grad_(part not in waiting)

    def _module(self, part: Part) -> nn.Module:
        return self._model.backbone.get_submodule(part)

    def _rate(self, part: Part) -> float:
        own = self._config.encoder_lr if part == "encoder" else self._config.decoder_lr
        factor = self._config.pretrained_lr if part in self._pretrained else 1.0
        return (own or self._config.lr) * factor
