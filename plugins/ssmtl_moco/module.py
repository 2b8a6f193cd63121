"""MoCo V2 after facebookresearch/moco, its order of operations kept: query, momentum update, key, logits, enqueue."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_moco import MocoV2 as MocoV2Spec
from ssmtl_moco.groups import grouped, only_norms_mix
from ssmtl_toolkit.data import augment
from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.ranks import gather, rank, world
from ssmtl_toolkit.engine.step import Step, TaskOutput


class MocoV2(nn.Module):
    """InfoNCE between two views of each anchor; negatives are keys of earlier steps.

    State: the key encoder with its projector (no gradient), `queue` (dim, K) of unit vectors, and `pointer`, the
    column written next. All of it is saved, so a resumed run continues with the same negatives.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, backbone: Backbone, spec: MocoV2Spec) -> None:
        super().__init__()
        self.temperature, self.momentum, self.bn_groups = spec.temperature, spec.momentum, spec.bn_groups
        channels = backbone.pooled_channels
        self.project = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, spec.dim)
        )
        self.key_encoder = copy.deepcopy(backbone.encoder).requires_grad_(False)
        self.key_project = copy.deepcopy(self.project).requires_grad_(False)
        self._query_encoder = [backbone.encoder]  # in a list: not a submodule, its weights are the backbone's
        self._query: list[Tensor] = [*backbone.encoder.parameters(), *self.project.parameters()]
        self._key: list[Tensor] = [*self.key_encoder.parameters(), *self.key_project.parameters()]
        self.register_buffer("queue", F.normalize(torch.randn(spec.dim, spec.queue), dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(self, step: Step) -> TaskOutput:
        query_view, key_view = self._augment(step.anchor), self._augment(step.anchor)
        encoder = self._query_encoder[0]
        query = self._in_groups(query_view, encoder, lambda part: self.project(step.encode(part).pooled))
        query = F.normalize(query.float(), dim=1)
        with torch.no_grad():
            if self.training and step.first:
                self._momentum_update()
            key = self._keys(key_view, step.seed)
        with _float32(query):
            logits = self._logits(query, key)
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        accuracy = (logits.detach().argmax(dim=1) == 0).float().mean()
        if self.training:
            self._enqueue(key)
        chance = logits.new_full((), math.log(logits.shape[1]))
        return TaskOutput(loss, {"chance": chance, "accuracy": accuracy}, pairs=len(query))

    @staticmethod
    def _augment(image: Tensor) -> Tensor:
        with _float32(image):
            return augment.gaussian_blur(augment.flip(image))

    def _logits(self, query: Tensor, key: Tensor) -> Tensor:
        """[q·k+, q·queue] / T, (N, 1 + K)."""
        positive = (query * key).sum(dim=1, keepdim=True)
        negative = query @ self.queue.clone()  # the queue is overwritten before the backward pass
        return torch.cat([positive, negative], dim=1) / self.temperature

    @torch.no_grad()
    def _momentum_update(self) -> None:
        """k <- m k + (1 - m) q over parameters; batch-norm statistics stay the key encoder's own."""
        torch._foreach_lerp_(self._key, self._query, 1 - self.momentum)

    def _keys(self, view: Tensor, seed: int) -> Tensor:
        """Encode with shuffled batch norm: no key shares its statistics with its own query. (N, dim), unit length."""
        gathered = gather(view)
        order = sent(torch.randperm(len(gathered), generator=torch.Generator().manual_seed(seed)), view.device)
        mine = slice(rank() * len(view), (rank() + 1) * len(view))
        keys = self._in_groups(gathered[order[mine]], self.key_encoder, self._encode_key)
        keys = F.normalize(keys.float(), dim=1)
        return gather(keys)[order.argsort()[mine]]

    def _encode_key(self, part: Tensor) -> Tensor:
        maps = self.key_encoder(part)
        projected: Tensor = self.key_project(maps[-1].mean(dim=(2, 3)))
        return projected

    def _in_groups(self, view: Tensor, encoder: nn.Module, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Encode parts of the batch, each with batch-norm statistics of its own; in one pass if that is the same.

        On one device this replaces the several devices of the original; with several devices it is not needed.
        """
        groups = 1 if world() > 1 else max(1, min(self.bn_groups, len(view) // 2))
        if groups > 1 and self.training and only_norms_mix(encoder):
            with grouped(encoder, groups):
                return encode(view)
        return torch.cat([encode(part) for part in view.tensor_split(groups)])

    @torch.no_grad()
    def _enqueue(self, key: Tensor) -> None:
        """Overwrite the oldest keys with those of all ranks, around the end if K is not a multiple of the batch."""
        keys = gather(key)[-self.queue.shape[1] :].to(self.queue.dtype)
        columns = (self.pointer + torch.arange(len(keys), device=keys.device)) % self.queue.shape[1]
        self.queue[:, columns] = keys.T
        self.pointer.copy_((self.pointer + len(keys)) % self.queue.shape[1])


def _float32(like: Tensor) -> torch.autocast:
    """No reduced precision inside: a matrix product of float32 would become bf16 under autocast."""
    return torch.autocast(like.device.type, enabled=False)
