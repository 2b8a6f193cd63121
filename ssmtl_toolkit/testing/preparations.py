"""Checks of preparations: on made-up scans, oblique and anisotropic, of one channel and of two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ssmtl_toolkit.data.lattice import Lattice
from ssmtl_toolkit.data.preparation import Stage
from ssmtl_toolkit.data.prepare import Sliced
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.data.wayback import WayBack
from ssmtl_toolkit.specs import PreparationSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require

SIZE = 24
GRIDS = ((30, 40, 9), (17, 21, 6), (24, 24, 1))
_SLICE = 4  # whose pixels are exchanged to see which others change


@check(PreparationSpec, "it gives slices, finite and of the shape that their places have")
def shapes_fit(bench: Bench) -> None:
    for stack in _stacks():
        stage = _applied(bench, stack)
        slices = stage.stack.slices
        grid = stack.grid if stage.lattice is None else stage.lattice.grid
        require(slices.ndim == 4, f"its slices are {slices.shape}; give (slices, channels, rows, columns)")
        require(stage.stack.grid == grid, f"its slices are {stage.stack.grid}, and their places {grid}; make them one")
        require(0 not in slices.shape, f"nothing is left of slices {stack.slices.shape}: {slices.shape}")
        require(bool(np.isfinite(slices).all()), "some value is not finite; guard divisions, logs and powers")


@check(PreparationSpec, "it leaves what it is given as it is")
def given_stays(bench: Bench) -> None:
    for stack in _stacks():
        before = stack.slices.copy()
        _applied(bench, stack)
        require(np.array_equal(before, stack.slices), "it changes the slices in place; work on a copy")


@check(PreparationSpec, "equal scans give equal slices")
def it_is_repeatable(bench: Bench) -> None:
    for stack in _stacks():
        first = _applied(bench, stack).stack.slices
        np.random.seed(1)
        torch.manual_seed(1)
        require(
            np.array_equal(first, _applied(bench, stack).stack.slices),
            "the same scan gives other slices the second time; draw nothing, and keep nothing of earlier scans",
        )


@check(PreparationSpec, "affine and spacing say where its pixels lie")
def geometry_agrees(bench: Bench) -> None:
    for stack in _stacks():
        stage = _applied(bench, stack)
        lattice = stage.lattice or Lattice.of(stack.grid)
        require(
            np.allclose(stage.stack.affine, stack.affine @ lattice.affine, atol=1e-6),
            "the affine of its slices is not that of their places; use Stage.of_places",
        )
        steps = [line.step for line in lattice.lines]
        require(
            np.allclose(stage.stack.spacing, np.multiply(stack.spacing, steps), rtol=1e-6),
            f"its spacing {stage.stack.spacing} is not {stack.spacing} times {steps}; use Stage.of_places",
        )


@check(PreparationSpec, "labels come back onto the grid of the scan")
def labels_come_back(bench: Bench) -> None:
    for volume in _volumes():
        labels = (np.random.default_rng(1).random(volume.shape) * 3).astype(np.uint8)
        sliced = Sliced.of(volume, Slicing(axis="axial", size=SIZE, prepare=(_spec(bench),)))
        forth = sliced.prepared_labels(labels)
        require(set(np.unique(forth)) <= {0, 1, 2}, f"labels 0, 1 and 2 become {np.unique(forth).tolist()}")
        chances = (
            torch.nn.functional.one_hot(torch.from_numpy(np.ascontiguousarray(forth)).long(), 3)
            .permute(0, 3, 1, 2)
            .float()
        )
        parts = [(slice(i, i + 1), chances[i : i + 1]) for i in range(len(chances))]
        index = np.zeros(sliced.cut.grid, np.uint8)
        for rows, maps in WayBack(sliced.lattice).each(parts, torch.tensor([1.0, 0.0, 0.0])):
            index[rows] = maps.argmax(dim=1).numpy()
        back = sliced.cut.back(index)
        if sliced.lattice is not None and not all(line.whole for line in sliced.lattice.lines):
            continue  # resampled: neighbours mix
        require(bool(((back == labels) | (back == 0)).all()), "labels come back at other places than they were at")
        require(bool((back > 0).any()), "no label comes back: nothing of the scan is left")


@check(PreparationSpec, "the way back of values has the channels and the shape from before")
def values_come_back(bench: Bench) -> None:
    for stack in _stacks():
        stage = _applied(bench, stack)
        if stage.undo is None:
            continue
        image = np.asarray(stage.stack.slices, np.float32)
        undone = stage.undo(image[:2])
        expected = (len(image[:2]), stack.slices.shape[1], *image.shape[2:])
        require(undone.shape == expected, f"undo gives {undone.shape} of {image[:2].shape}, not {expected}")
        require(bool(np.isfinite(undone).all()), "undo gives values that are not finite")


@check(PreparationSpec, "a slice shows no others than `reach` says")
def reach_is_true(bench: Bench) -> None:
    stack, reach = next(_stacks()), _spec(bench).reach
    other = stack.slices.copy()
    other[_SLICE] = other[_SLICE, ..., ::-1, ::-1]  # the same values elsewhere: statistics of the scan stay
    before, after = _applied(bench, stack), _applied(bench, replace(stack, slices=other))
    if before.lattice is not None and before.lattice.slices != after.lattice.slices:  # type: ignore[union-attr]
        return
    if before.stack.slices.shape != after.stack.slices.shape:
        return
    changed = np.flatnonzero((before.stack.slices != after.stack.slices).any(axis=(1, 2, 3)))
    lattice = before.lattice or Lattice.of(stack.grid)
    width = max(1.0, lattice.slices.step) if not lattice.slices.whole else 0
    far = [int(i) for i in changed if abs(lattice.slices.positions[i] - _SLICE) > reach * lattice.slices.step + width]
    require(not far, f"slice {_SLICE} shows in slice {far and far[0]}; `reach` says {reach}: companions would overlap")


@check(PreparationSpec, "a blank slice among others, and values of any type, are prepared too")
def odd_values(bench: Bench) -> None:
    stack = next(_stacks())
    blank = stack.slices.copy()
    blank[0] = blank.min()
    for slices in (blank, blank.astype(np.int16), (blank > blank.mean()).astype(np.uint8), blank * np.float32(1e4)):
        made = _applied(bench, replace(stack, slices=slices)).stack.slices
        if not np.isfinite(made).all():
            fail(f"of {slices.dtype} slices some value is not finite; guard divisions, logs and powers")


def _spec(bench: Bench) -> PreparationSpec:
    assert isinstance(bench.spec, PreparationSpec)
    return bench.spec


def _applied(bench: Bench, stack: Stack) -> Stage:
    stage = _spec(bench).prepare(stack, SIZE)
    if not isinstance(stage, Stage):
        fail(f"prepare gives {type(stage).__name__}; give a Stage")
    return stage


def _volumes() -> Iterator[Volume]:
    """Scans with a bright ellipsoid in noise; turned by 20 degrees, flipped, 0.7 x 0.9 x 3 mm."""
    turn = np.deg2rad(20)
    turned = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ np.diag([-0.7, 0.9, 3.0])
    affine[:3, 3] = (-10, 20, 5)
    for shape in GRIDS:
        for channels in (1, 2):
            array = np.stack([_body(shape, channel) for channel in range(channels)], axis=-1)
            yield Volume(array[..., 0] if channels == 1 else array, affine, (0.7, 0.9, 3.0))


def _body(shape: tuple[int, int, int], channel: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(channel)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    inside = sum((axis - 0.1) ** 2 for axis in axes) < 0.8**2
    return (800.0 * inside + rng.normal(0, 30, shape) - 200 * channel).astype(np.float32)


def _stacks() -> Iterator[Stack]:
    yield from (Stack.of(volume, "axial") for volume in _volumes())
