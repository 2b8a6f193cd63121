"""Parts that are right in ways that the bundled ones are not: no check may take them for broken."""

import torch
from torch import nn
from torch.nn import functional as F

from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.specs import BackboneSpec, TaskSpec


class Drawing(TaskSpec):
    """Masks each companion at random, in training and test."""

    name = "drawing"
    needs = frozenset({"pooled"})

    def companions(self, spacing):
        return {"other": (-2, 2)}

    def build(self, backbone):
        return DrawingModule(backbone.pooled_channels)


class DrawingModule(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.predict = nn.Linear(channels, channels)

    def forward(self, step):
        other = step.companion("other")
        told = self.predict(other.of(step.features().pooled)).float()
        if not len(told):
            return TaskOutput.nothing(told)
        masked = other.image * (torch.rand_like(other.image) > 0.3)
        with torch.no_grad():
            truth = step.encode(masked).pooled.float()
        return TaskOutput(F.mse_loss(told, truth), pairs=len(told))


class AnchorsToo(TaskSpec):
    """Learns from all anchors, and more from those with a companion."""

    name = "anchors_too"
    needs = frozenset({"dense"})

    def companions(self, spacing):
        return {"next": (1,)}

    def build(self, backbone):
        return AnchorsTooModule(backbone.dense_channels, backbone.in_channels)


class AnchorsTooModule(nn.Module):
    def __init__(self, channels, images):
        super().__init__()
        self.decode = nn.Conv2d(channels, images, 1)

    def forward(self, step):
        after = step.companion("next")
        told = self.decode(step.features().dense).float()
        loss = F.mse_loss(told, step.anchor)
        if len(after.image):
            loss = loss + F.mse_loss(after.of(told), after.image)
        return TaskOutput(loss, pairs=len(told))


class Between(TaskSpec):
    """Reconstructs the anchor from two neighbours, where both are there; trains the encoder by the neighbours alone."""

    name = "between"
    needs = frozenset({"dense"})

    def companions(self, spacing):
        return {"before": (-1,), "behind": (1,)}

    def build(self, backbone):
        return BetweenModule(backbone.dense_channels, backbone.in_channels)


class BetweenModule(nn.Module):
    def __init__(self, channels, images):
        super().__init__()
        self.decode = nn.Conv2d(2 * channels, images, 1)

    def forward(self, step):
        before, behind = step.together("before", "behind")
        if not len(before.image):
            return TaskOutput.nothing(self.decode(step.features().dense.repeat(1, 2, 1, 1)))
        maps = torch.cat([step.encode(before.image).dense, step.encode(behind.image).dense], dim=1)
        anchors = before.of(step.anchor)
        return TaskOutput(F.mse_loss(self.decode(maps).float(), anchors), pairs=len(anchors))


class AtABlock(TaskSpec):
    """Makes the coarsest map of the decoder that of a neighbour, point by point; reads no dense map."""

    name = "at_a_block"
    needs = frozenset({"decoded"})

    def companions(self, spacing):
        return {"beside": (-1, 1)}

    def build(self, backbone):
        return AtABlockModule(backbone.levels.decoder[-1])


class AtABlockModule(nn.Module):
    def __init__(self, level):
        super().__init__()
        self.level, self.predict = level, nn.Conv2d(level.channels, level.channels, 1)

    def forward(self, step):
        beside = step.companion("beside")
        told = self.predict(beside.of(step.features().decoded[-1])).float()
        if not len(told):
            return TaskOutput.nothing(told)
        assert told.shape[2] == step.anchor.shape[2] // self.level.stride
        with torch.no_grad():
            truth = step.encode(beside.image).decoded[-1].float()
        return TaskOutput(F.mse_loss(told, truth), pairs=len(told))


class NeedsSize(BackboneSpec):
    """Halves its images five times and normalises each map by itself: 32 pixels are too few."""

    name = "needs_size"

    def build(self, in_channels):
        return Backbone(SizedEncoder(in_channels), nn.Sequential(Last(), nn.Conv2d(8, 4, 1)), in_channels, 8, 4)


class SizedEncoder(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU())
            for a in (channels, 8, 8, 8, 8)
        )
        self.moving_mean: torch.Tensor
        self.register_buffer("moving_mean", torch.zeros(8))

    def forward(self, image):
        maps = [image]
        for level in self.levels:
            maps.append(level(maps[-1]))
        if self.training:
            with torch.no_grad():
                self.moving_mean.lerp_(maps[-1].float().mean(dim=(0, 2, 3)), 0.1)
        return maps[1:]


class Last(nn.Module):
    def forward(self, maps):
        return maps[-1]
