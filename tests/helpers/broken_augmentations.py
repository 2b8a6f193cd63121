"""Augmentations with one deliberate fault each, and what the checks say about them."""

import random

import torch
from pydantic import Field

from ssmtl_toolkit.engine.augmentation import Augmentation, boxes, uniform
from ssmtl_toolkit.specs import AugmentationSpec


class BrokenAugmentation(AugmentationSpec):
    """Brightens; FAULT says what is wrong."""

    name = "broken_augmentation"
    changes = frozenset({"values"})

    fault: str = Field("none", description="What is wrong.")

    def build(self):
        return torch.nn.Identity() if self.fault == "a module" else Brightened(self.fault)


class Brightened(Augmentation):
    def __init__(self, fault):
        self.fault = fault
        self.generator = torch.Generator().manual_seed(0) if fault == "own generator" else None

    def values(self, image):
        fault, number = self.fault, 1 if self.fault == "one draw for all" else len(image)
        factor = 1 + torch.rand(number, 1, 1, 1, generator=self.generator)
        if fault == "own randomness":
            factor = factor * random.random()
        if fault == "in place":
            return image.mul_(factor)
        if fault == "statistics of the batch":
            factor = factor / (image - image.mean(dim=0)).abs().mean(dim=0)
        if fault == "statistics of the slice":
            factor = factor / image.std(dim=(1, 2, 3), keepdim=True)
        if fault == "mixes types":  # refused by torch where the product is bf16
            square = image[0, 0, :4, :4]
            factor = factor + 0 * torch.zeros(4, 4).index_add(0, torch.arange(4), square @ square).sum()
        changed = image * factor
        if fault == "one channel":
            return changed[:, :1]
        return changed.double() if fault == "another type" else changed

    def place(self, points):
        return points * 0.9 if self.fault == "moves too" else points


class BrokenPlace(AugmentationSpec):
    """Moves; FAULT says what is wrong."""

    name = "broken_place"
    changes = frozenset({"place"})

    fault: str = Field("none", description="What is wrong.")

    def build(self):
        return Displaced(self.fault)


class Displaced(Augmentation):
    def __init__(self, fault):
        self.fault = fault

    def place(self, points):
        if self.fault == "moves nothing":
            return points + 0
        if self.fault == "in pixels":
            points = points * 32 + 100
        if self.fault == "divides by zero":
            points = points / torch.zeros(1)
        return points + uniform(len(points), -0.1, 0.1, points.device)[:, None, None, None]


class BrokenMix(AugmentationSpec):
    """Pastes boxes of another slice; FAULT says what is wrong."""

    name = "broken_mix"
    changes = frozenset({"batch"})

    fault: str = Field("none", description="What is wrong.")

    def build(self):
        return Mixed(self.fault)


class Mixed(Augmentation):
    def __init__(self, fault):
        self.fault = fault

    def batch(self, image, target, partner):
        inside = boxes(len(image), image.shape[-2:], 0.5)[:, None]
        if self.fault == "another partner":
            partner = partner.roll(1)
        new = image.lerp(image[partner], 0.3) if self.fault == "mixes values" else image[partner]
        mixed = torch.where(inside, new, image)
        if self.fault == "leaves labels" and target.dim() == 3:
            return mixed, target
        if self.fault == "leaves images" and target.dim() == 4:
            return mixed, target
        return mixed, torch.where(inside if target.dim() == 4 else inside[:, 0], target[partner], target)


SHAPES = "it gives points, slices and targets of the shapes and types that it is given"
LISTED = "it changes what its `changes` lists, and nothing else"
SEED = "the seed of torch's global generator decides all that it draws"
POINTS = "points are finite, and labels follow them"
LABELS = "labels go with the pixels of other slices"

BROKEN_AUGMENTATIONS = [
    *[
        (BrokenAugmentation(fault=fault), title, message)
        for title, fault, message in (
            (SHAPES, "one channel", "values is torch.float32 (8, 1, 32, 32) of torch.float32 (8, 3, 32, 32)"),
            (SHAPES, "another type", "values is torch.float64 (8, 1, 32, 32) of torch.float32"),
            (SHAPES, "a module", "build gives Identity; give an Augmentation"),
            ("it leaves what it is given as it is", "in place", "it changes image in place"),
            (LISTED, "moves too", "add 'place' to `changes`"),
            (SEED, "own randomness", "values() does different things with one seed"),
            (SEED, "own generator", "values() draws the same with any seed"),
            ("each slice gets its own draws", "one draw for all", "values() changes equal slices alike"),
            (
                "values stay finite: of one single value, of very large ones",
                "statistics of the slice",
                "of zeros alone some value is nan",
            ),
            ("a single slice is changed too", "statistics of the batch", "values of one slice is "),
            ("it works under bf16 autocast", "mixes types", "RuntimeError"),
        )
    ],
    *[
        (BrokenPlace(fault=fault), title, message)
        for title, fault, message in (
            (LISTED, "moves nothing", "place() changes nothing"),
            (POINTS, "divides by zero", "a point is -inf"),
            (POINTS, "in pixels", "all pixels come from outside of the slice"),
        )
    ],
    *[
        (BrokenMix(fault=fault), LABELS, message)
        for fault, message in {
            "leaves labels": "pixels and labels come from different places",
            "leaves images": "a target (N, C, H, W) is not changed as the slices are",
            "mixes values": "some values are in none of the slices",
            "another partner": "slices that are not the partner's",
        }.items()
    ],
]
