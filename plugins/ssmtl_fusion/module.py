"""Slices mixed box by box, and the segmentation of the mixing level by cross-entropy and Dice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_fusion import SliceFusion as SliceFusionSpec
from ssmtl_toolkit.data.sending import sent
from ssmtl_toolkit.engine.augmentation import spans, uniform
from ssmtl_toolkit.engine.step import Step, TaskOutput

_SMALLEST = 1 / 12  # side of a box as a share of the slice's: 8 pixels of 96


class SliceFusion(nn.Module):
    """Cross-entropy + Dice loss of the mixing level of each pixel: volume fusion for slices.

    The network sees a F + (1 - a) B with B the anchor, F another slice of the batch, and a one of K levels from 0 to 1
    for each pixel, drawn for boxes that cover one another; its answer is the level, one of K classes, by a 1x1
    convolution on the dense map (volume fusion: Wang et al. 2023, arXiv:2306.16925; there of volumes).
    """

    def __init__(self, channels: int, spec: SliceFusionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.classify = nn.Conv2d(channels, spec.levels, kernel_size=1)

    def forward(self, step: Step) -> TaskOutput:
        background = step.anchor
        level = draw_levels(background, self.spec)
        share = level[:, None] / (self.spec.levels - 1)
        mixed = share * background[sent(others(len(background)), background.device)] + (1 - share) * background
        maps = self.classify(step.encode(mixed).dense).float()
        if len(background) < 2:
            return TaskOutput.nothing(maps)
        truth = F.one_hot(level, self.spec.levels).movedim(-1, 1).to(maps.dtype)
        accuracy = (maps.detach().argmax(dim=1) == level).float().mean()
        metrics = {"chance": chance(truth), "accuracy": accuracy}
        return TaskOutput(segmentation_loss(maps, truth), metrics, pairs=len(background))


def draw_levels(image: Tensor, spec: SliceFusionSpec) -> Tensor:
    """Draw the mixing level, 0 to `levels` - 1, of each pixel of slices (N, C, H, W): (N, H, W) int64.

    Levels are those of boxes with sides drawn evenly, of which later ones cover earlier ones; outside of all it is 0.
    """
    number, shape, device, cpu = len(image), image.shape[2:], image.device, torch.device("cpu")
    least = -(-spec.boxes // 4)
    wanted = torch.randint(least, spec.boxes + 1, (number,))
    level = torch.zeros(number, *shape, dtype=torch.int64, device=device)
    for box in range(spec.boxes):
        sides = [uniform(number, min(_SMALLEST, spec.largest), spec.largest, cpu) for _ in shape]
        rows, columns = (sent(spans(length, side), device) for length, side in zip(shape, sides, strict=True))
        drawn = sent(torch.randint(spec.levels, (number,)), device)
        covered = rows[:, :, None] & columns[:, None] & sent(box < wanted, device)[:, None, None]
        level = torch.where(covered, drawn[:, None, None], level)
    return level


def others(number: int) -> Tensor:
    """For each of so many slices another one, (N,); each is that of one, and of two or more none is its own."""
    order = torch.randperm(number)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return other


def segmentation_loss(maps: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy + Dice loss of maps (N, K, H, W) for classes (N, K, H, W) that are 0 or 1.

    The Dice loss is 1 - 2 Σpg / (Σp + Σg), sums over the pixels of all slices, mean over the classes that occur.
    """
    log_p = maps.log_softmax(dim=1)
    entropy = -(log_p * truth).sum(dim=1).mean()
    p, pixels = log_p.exp(), (0, 2, 3)
    count = truth.sum(dim=pixels)
    dice = 2 * (p * truth).sum(dim=pixels) / (p.sum(dim=pixels) + count)
    return entropy + 1 - (dice * (count > 0)).sum() / (count > 0).sum()


def chance(truth: Tensor) -> Tensor:
    """What the best answer costs that is the same for every pixel: the frequencies f of the classes (N, K, H, W).

    By Gibbs' inequality no other has a lower cross-entropy, -Σ f log f; and no other a higher mean Dice, which for
    p = f is 2 f² / (f + f) = f of each class, 1 / K on average.
    """
    frequency = truth.mean(dim=(0, 2, 3))
    entropy: Tensor = torch.special.entr(frequency).sum()
    return entropy + 1 - 1 / (frequency > 0).sum()
