"""Checks of downstream heads."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.engine.head import IGNORE, Head
from ssmtl_toolkit.features import FEATURES, parts_of
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.specs import HeadSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require
from ssmtl_toolkit.testing.modules import (
    finite_scalar,
    reached,
    same_after_loading,
    some,
    state,
    unchanged_in_eval,
    under_autocast,
    without_gradient,
)
from ssmtl_toolkit.testing.sample import CHANNELS, SIZE, Small, differing

CLASSES = 3  # background and two more


def _gives_labels(spec: HeadSpec) -> bool:
    return spec.output == "labels"


@check(HeadSpec, "it gives maps of the right shape, and a finite scalar loss")
def maps_and_loss(bench: Bench) -> None:
    spec, _ = _made(bench)
    unknown = sorted(spec.needs - FEATURES.keys())
    require(not unknown, f"needs {unknown}; there are {sorted(FEATURES)}")
    for channels in CHANNELS:
        model = _build(spec, channels=channels).train()
        image, target = _example(spec, channels)
        given, shape = model.head.degrade(image), tuple(image.shape)
        require(given.shape == shape, f"degrade gives {tuple(given.shape)} of {shape}; keep the shape")
        maps = model(given)
        expected = (len(image), CLASSES if spec.output == "labels" else channels, SIZE, SIZE)
        require(
            tuple(maps.shape) == expected,
            f"maps are {tuple(maps.shape)} of slices {shape}; expected {expected}: one channel per class, background "
            f"first, or the slices themselves",
        )
        finite_scalar(model.head.loss(maps, target), "the loss")


@check(HeadSpec, "it leaves the slices that it is given as they are")
def slices_stay(bench: Bench) -> None:
    spec, model = _made(bench)
    image, target = _example(spec)
    before, labels = image.clone(), target.clone()
    model.head.loss(model(model.head.degrade(image)), target)
    require(torch.equal(before, image), "it changes slices in place, which are the targets of others; work on a copy")
    require(torch.equal(labels, target), "it changes targets in place; work on a copy")


@check(HeadSpec, "gradient reaches its own weights and the backbone")
def gradient_reaches_all(bench: Bench) -> None:
    spec, model = _made(bench)
    _loss(spec, model).backward()
    idle = without_gradient(model.head)
    require(not idle, f"no gradient reaches its {some(idle)}; use them, or freeze them by requires_grad_(False)")
    require(reached(model.backbone.encoder), "no gradient reaches the encoder; do not detach the features")
    if "decoder" in parts_of(spec.needs):
        require(reached(model.backbone.decoder), "no gradient reaches the decoder; do not detach the dense map")


@check(HeadSpec, "pixels that nobody annotated count for nothing", applies=_gives_labels)
def ignored_pixels_count_nothing(bench: Bench) -> None:
    spec, model = _made(bench)
    image, target = _example(spec)
    target[:, : SIZE // 2] = IGNORE
    maps = model(image).detach().requires_grad_()
    model.head.loss(maps, target).backward()
    require(maps.grad is not None and bool(maps.grad[:, :, SIZE // 2 :].abs().max() > 0), "no pixel has a gradient")
    require(
        bool(maps.grad[:, :, : SIZE // 2].abs().max() == 0),
        "pixels marked IGNORE get a gradient; leave them out of the loss (`ssmtl_toolkit.engine.head.IGNORE`)",
    )
    loss = model.head.loss(model(image), torch.full_like(target, IGNORE))
    finite_scalar(loss, "where nobody annotated anything the loss")


@check(HeadSpec, "it learns classes that overlap", applies=lambda spec: spec.overlapping)
def overlapping_classes(bench: Bench) -> None:
    spec, model = _made(bench)
    require(spec.output == "labels", "it is `overlapping`, but its output is not labels")
    image, index = _example(spec)
    target = torch.stack([index > 0, index == 1, index == 2], dim=1).long()
    target[:, :, : SIZE // 2] = IGNORE
    maps = model(image).detach().requires_grad_()
    loss = model.head.loss(maps, target)
    finite_scalar(loss, "where classes overlap the loss")
    loss.backward()
    require(maps.grad is not None, "where classes overlap no gradient reaches the maps")
    assert maps.grad is not None
    require(bool(maps.grad[:, :, : SIZE // 2].abs().max() == 0), "where classes overlap IGNORE gets a gradient")
    for belongs in (0, 1):
        pulled = float(maps.grad[target == belongs].sum()) < 0
        require(
            pulled == bool(belongs),
            "where classes overlap its gradient does not raise the maps of the classes that a pixel belongs to, and "
            "lower the others",
        )


@check(HeadSpec, "eval mode changes no state")
def eval_changes_nothing(bench: Bench) -> None:
    spec, model = _made(bench)
    unchanged_in_eval(model, lambda: model(_example(spec)[0]))


@check(HeadSpec, "its state can be saved and loaded")
def state_round_trip(bench: Bench) -> None:
    spec, model = _made(bench)
    same_after_loading(model, _build(spec, seed=1), lambda m: cast("Tensor", m(_example(spec)[0])))


@check(HeadSpec, "a resumed training ends with the same bits")
def training_resumes(bench: Bench) -> None:
    spec, _ = _made(bench)
    whole = _train(spec, 3, bench.folder / "whole")
    parted = _train(spec, 3, bench.folder / "parted", stop_after=1)
    different = differing(whole, parted)
    require(
        not different,
        f"after 3 steps {some(different)} differ from those of a training that was stopped after the first; keep state "
        f"in persistent buffers, and draw only from torch's global generator",
    )


@check(HeadSpec, "one seed gives the same bits twice")
def training_repeats(bench: Bench) -> None:
    spec, _ = _made(bench)
    different = differing(_train(spec, 2, bench.folder / "a"), _train(spec, 2, bench.folder / "b"))
    require(
        not different,
        f"two trainings with one seed differ in {some(different)}; draw only from torch's global generator",
    )


@check(HeadSpec, "it trains under bf16 autocast")
def training_in_bf16(bench: Bench) -> None:
    spec, model = _made(bench)
    under_autocast(lambda: _loss(spec, model), model)


def _made(bench: Bench) -> tuple[HeadSpec, Downstream]:
    assert isinstance(bench.spec, HeadSpec)
    return bench.spec, _build(bench.spec).train()


def _build(spec: HeadSpec, seed: int = 0, channels: int = CHANNELS[0]) -> Downstream:
    torch.manual_seed(seed)
    backbone = Small().build(channels)
    head = spec.build(backbone, CLASSES if spec.output == "labels" else 0)
    if not isinstance(head, Head):
        fail(f"build gives {type(head).__name__}; give a Head")
    return Downstream(backbone, head)


def _example(spec: HeadSpec, channels: int = CHANNELS[0]) -> tuple[Tensor, Tensor]:
    """Four slices, and where each pixel is bright, dark or neither; or the slices themselves."""
    image = torch.randn(4, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    classes = (image > 0.5).long() + 2 * (image < -0.5).long()
    return image, classes[:, 0] if spec.output == "labels" else image


def _loss(spec: HeadSpec, model: Downstream) -> Tensor:
    image, target = _example(spec)
    loss: Tensor = model.head.loss(model(model.head.degrade(image)), target)
    return loss


def _train(spec: HeadSpec, steps: int, folder: Path, stop_after: int | None = None) -> dict[str, Tensor]:
    """Take steps of Adam; after `stop_after` of them continue as a new process would: new modules, loaded state."""
    model = _build(spec).train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        if step == stop_after:
            saved = checkpoint.save(folder, model, adam, {"step": step}, keep=1)
            model = _build(spec, seed=7).train()
            adam = torch.optim.Adam(model.parameters(), lr=1e-3)
            checkpoint.restore(checkpoint.load(saved), model, adam)
        torch.manual_seed(step)
        adam.zero_grad()
        _loss(spec, model).backward()
        adam.step()
    return state(model)
