"""Counting voxels, and distances of surfaces, against numpy's bincount and MONAI.

python benchmarks/scoring.py [--rounds N] [--json] [--only WORD] [--quick]
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom
from timing import Act, Group, Ratio, Skipped, Way, main

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.evaluation.scores import count, score_scan
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec

SPACING = (1.0, 1.0, 2.0)
Maps = NDArray[np.uint8]


def regions(number: int, shape: tuple[int, int, int]) -> tuple[Maps, Maps]:
    """A label map of classes below `number` in smooth regions of an ellipsoid, and the same moved by three voxels."""
    noise = np.random.default_rng(0).normal(size=(number - 1, *(max(2, n // 16) for n in shape)))
    smooth = np.stack([zoom(one, [n / m for n, m in zip(shape, one.shape, strict=True)], order=1) for one in noise])
    inside = sum(axis**2 for axis in np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]) < 0.8
    truth = np.where(inside, smooth.argmax(axis=0) + 1, 0).astype(np.uint8)
    return np.roll(truth, 3, axis=0), truth


def counting(predicted: Maps, truth: Maps, number: int) -> Act:
    classes = Classes.of_values(range(1, number))
    return lambda: count(predicted, truth, classes.members)


def bincount(predicted: Maps, truth: Maps, number: int) -> Act:
    def table() -> NDArray[np.int64]:
        both = truth.ravel().astype(np.int64) * number + predicted.ravel()
        return np.bincount(both, minlength=number * number).reshape(number, number)

    return table


def surfaces(predicted: Maps, truth: Maps, number: int) -> Act:
    classes = Classes.of_values(range(1, number))
    metrics = [registry().resolve(MetricSpec, name) for name in ("hd95", "surface_dice")]
    return lambda: score_scan("scan", predicted, truth, classes, SPACING, metrics)


def monai(predicted: Maps, truth: Maps, number: int) -> Act:
    warnings.simplefilter("ignore")
    try:
        import torch
        from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    except ImportError as error:
        raise Skipped(f"MONAI is not installed ({error})") from error
    tensors = (torch.nn.functional.one_hot(torch.from_numpy(one).long(), number) for one in (predicted, truth))
    ours, theirs = (one.movedim(-1, 0)[None] for one in tensors)

    def score() -> None:
        compute_hausdorff_distance(ours, theirs, percentile=95, spacing=list(SPACING))
        compute_surface_dice(ours, theirs, [2.0] * (number - 1), spacing=list(SPACING))

    return score


def rows(quick: bool) -> Iterator[Group]:
    shape = (24, 24, 12) if quick else (160, 160, 80)
    for number in (5,) if quick else (5, 40):
        maps = (*regions(number, shape), number)
        ways = {"ours": Way(counting, maps), "numpy's bincount": Way(bincount, maps)}
        title = f"counts for IoU and Dice, {number} classes"
        yield Group(title, ways, [Ratio("ours", "numpy's bincount", "≤ 1.2")], rounds=15, times=2)
    for number in (5,) if quick else (5, 40):
        maps = (*regions(number, shape), number)
        ways = {"ours": Way(surfaces, maps), "MONAI": Way(monai, maps)}
        yield Group(f"HD95 and surface Dice, {number} classes", ways, [Ratio("ours", "MONAI", "≤ 0.2")], rounds=3)


if __name__ == "__main__":
    main(__doc__, rows)
