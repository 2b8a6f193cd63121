"""Checks of backbones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor

from ssmtl_toolkit.engine.backbone import Backbone, Features, Level
from ssmtl_toolkit.features import FEATURES, PARTS, parts_of
from ssmtl_toolkit.specs import BackboneSpec, TaskSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require
from ssmtl_toolkit.testing.modules import (
    reached,
    repeats,
    resumes,
    same_after_loading,
    some,
    trains_on_two_ranks,
    unchanged_in_eval,
    under_autocast,
)
from ssmtl_toolkit.testing.rank import importable
from ssmtl_toolkit.testing.sample import CHANNELS, Point, Repeat

SIZES = (32, 64, 128, 224)


@check(BackboneSpec, "it gives features of the shapes that it says")
def shapes_are_true(bench: Bench) -> None:
    spec, backbone = _made(bench)
    require(
        spec.provides <= FEATURES.keys() and bool(spec.provides),
        f"provides {sorted(spec.provides)}; it may be any of {sorted(FEATURES)}",
    )
    require(isinstance(backbone, Backbone), f"build gives {type(backbone).__name__}; give a Backbone")
    size = size_for(spec)
    for channels in CHANNELS:
        made = _build(spec, channels=channels).train()
        require(made.in_channels == channels, f"of {channels} channels asked for, in_channels says {made.in_channels}")
        features = made(_images(spec, channels))
        pooled = tuple(features.pooled.shape)
        require(
            pooled == (4, made.pooled_channels),
            f"pooled is {pooled}, but pooled_channels is {made.pooled_channels}; set it to that of the deepest map",
        )
        if "dense" in spec.provides:
            dense = tuple(features.dense.shape)
            require(
                dense == (4, made.dense_channels, size, size),
                f"dense is {dense}, but dense_channels is {made.dense_channels}; set it to that of the decoder",
            )


@check(BackboneSpec, "its levels are those of its maps, finest first")
def levels_are_true(bench: Bench) -> None:
    spec, backbone = _made(bench)
    features = backbone.train()(_images(spec))
    parts = [("encoder", backbone.levels.encoder, features.pyramid)]
    if _decodes(spec):
        parts.append(("decoder", backbone.levels.decoder, features.decoded))
    for part, levels, maps in parts:
        given = [(one.shape[1], one.shape[2]) for one in maps]
        _channels_and_sizes(part, levels, given, size_for(spec))


def _channels_and_sizes(part: str, levels: Sequence[Level], given: Sequence[tuple[int, int]], size: int) -> None:
    """Refuse maps, each of these channels and height, that are not those found by a single image in eval mode."""
    expected = [(level.channels, size / level.stride) for level in levels]
    require(
        len(given) == len(expected)
        and all(a[0] == b[0] and abs(a[1] - b[1]) <= 1 for a, b in zip(given, expected, strict=True)),
        f"in training on {size} pixels the {part}'s maps have (channels, height) {given}, in eval mode on one image "
        f"{[(channels, round(height)) for channels, height in expected]}; give the same maps always",
    )
    heights = [height for _, height in given]
    require(
        heights == sorted(heights, reverse=True),
        f"the {part}'s maps have heights {heights}; give them finest first",
    )


@check(BackboneSpec, "every channel of its images counts")
def channels_count(bench: Bench) -> None:
    spec, _ = _made(bench)
    channels = CHANNELS[-1]
    backbone, images = _build(spec, channels=channels).eval(), _images(spec, channels)
    with torch.no_grad():
        before = _features(spec, backbone, images)
        for channel in range(channels):
            changed = images.clone()
            changed[:, channel] = images[:, channel].roll(1, dims=0)
            require(
                not torch.equal(before, _features(spec, backbone, changed)),
                f"its features are the same whatever channel {channel + 1} of {channels} shows; build the first layer "
                f"for in_channels",
            )


@check(BackboneSpec, "encoder and decoder are two modules that share no weights, and nothing is beside them")
def parts_are_apart(bench: Bench) -> None:
    _, backbone = _made(bench)
    encoder = {id(p) for p in backbone.encoder.parameters()}
    both = [name for name, p in backbone.decoder.named_parameters() if id(p) in encoder]
    require(not both, f"decoder.{some(both)} are the encoder's too; a frozen encoder would freeze them")
    beside = [name for name in backbone.state_dict() if not name.startswith(("encoder.", "decoder."))]
    require(not beside, f"{some(beside)} belong to neither encoder nor decoder and would not be transferred; move them")


@check(BackboneSpec, "gradient reaches the encoder, and the decoder where it is read")
def gradient_reaches_all(bench: Bench) -> None:
    spec, backbone = _made(bench)
    backbone.train()(_images(spec)).pooled.square().sum().backward()
    require(reached(backbone.encoder), "no gradient reaches the encoder from the pooled features; do not detach them")
    require(not reached(backbone.decoder), "reading pooled features runs the decoder; keep the two apart")
    if _decodes(spec):
        backbone.zero_grad()
        backbone(_images(spec)).dense.square().sum().backward()
        for name in ("encoder", "decoder"):
            part = getattr(backbone, name)
            require(reached(part), f"no gradient reaches the {name} from the dense map; do not detach its maps")
        detached = [one for one in backbone(_images(spec)).decoded if not one.requires_grad]
        require(not detached, f"{len(detached)} of the decoder's maps have no gradient; do not detach them")


@check(BackboneSpec, "in eval mode a slice's features do not depend on the others in the batch")
def slices_are_independent(bench: Bench) -> None:
    spec, backbone = _made(bench)
    backbone.eval()
    images = _images(spec)
    with torch.no_grad():
        together, alone = backbone(images), backbone(images[:1])
        pairs = [
            (name, one[:1], other)
            for name in FEATURES
            if name in spec.provides
            for one, other in zip(together.tensors(name), alone.tensors(name), strict=True)
        ]
    for name, a, b in pairs:
        require(
            torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max() + 1e-6)),
            f"{name} features of one slice differ by {float((a - b).abs().max()):.2g} when other slices are beside it; "
            f"a prediction would depend on the batch size: use running statistics in eval mode",
        )


@check(BackboneSpec, "its encoder can be copied, as MoCo V2 does")
def encoder_can_be_copied(bench: Bench) -> None:
    spec, backbone = _made(bench)
    backbone.eval()
    copied = copy.deepcopy(backbone.encoder)
    with torch.no_grad():
        ours, theirs = backbone.encoder(_images(spec))[-1], copied(_images(spec))[-1]
    require(torch.equal(ours, theirs), "a copy of its encoder gives other maps; keep no state outside the module")


@check(BackboneSpec, "eval mode changes no state")
def eval_changes_nothing(bench: Bench) -> None:
    spec, backbone = _made(bench)
    unchanged_in_eval(backbone, lambda: _read(spec, backbone))


@check(BackboneSpec, "its state can be saved and loaded")
def state_round_trip(bench: Bench) -> None:
    spec, backbone = _made(bench)
    backbone.train()
    _read(spec, backbone)
    same_after_loading(backbone, _build(spec, seed=1), lambda module: _read(spec, cast("Backbone", module)))


@check(BackboneSpec, "a resumed run ends with the same bits")
def run_resumes(bench: Bench) -> None:
    spec, _ = _made(bench)
    resumes(bench.folder, tasks=_tasks(spec), backbone=spec, size=size_for(spec))


@check(BackboneSpec, "one seed gives the same bits twice")
def run_repeats(bench: Bench) -> None:
    spec, _ = _made(bench)
    repeats(bench.folder, tasks=_tasks(spec), backbone=spec, size=size_for(spec))


@check(BackboneSpec, "it trains under bf16 autocast")
def run_in_bf16(bench: Bench) -> None:
    spec, backbone = _made(bench)
    under_autocast(lambda: _read(spec, backbone).float().square().mean(), backbone)


@check(BackboneSpec, "two processes train it and stay equal", applies=importable)
def run_on_two_ranks(bench: Bench) -> None:
    spec, _ = _made(bench)
    trains_on_two_ranks(bench.folder, tasks=_tasks(spec), backbone=spec, size=size_for(spec))


def _made(bench: Bench) -> tuple[BackboneSpec, Backbone]:
    assert isinstance(bench.spec, BackboneSpec)
    return bench.spec, _build(bench.spec)


def _build(spec: BackboneSpec, seed: int = 0, channels: int = CHANNELS[0]) -> Backbone:
    torch.manual_seed(seed)
    backbone = spec.build(channels)
    if not isinstance(backbone, Backbone):
        fail(f"build gives {type(backbone).__name__}; give a Backbone")
    return backbone


def _images(spec: BackboneSpec, channels: int = CHANNELS[0]) -> Tensor:
    size = size_for(spec)
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))


@cache
def size_for(spec: BackboneSpec) -> int:
    """The first size of images that a network can be trained on; the smallest where it takes none."""
    for size in SIZES:
        backbone = _build(spec).train()
        try:
            features = backbone(torch.randn(4, CHANNELS[0], size, size))
            _ = [features.tensors(name) for name in spec.provides]
        except (RuntimeError, ValueError, AssertionError):
            continue
        return size
    return SIZES[0]


def _read(spec: BackboneSpec, backbone: Backbone) -> Tensor:
    """What it gives for the images, as one tensor."""
    torch.manual_seed(0)
    return _features(spec, backbone, _images(spec))


def _features(spec: BackboneSpec, backbone: Backbone, images: Tensor) -> Tensor:
    features: Features = backbone(images)
    return features.tensors(PARTS[parts_of(spec.provides)[-1]])[0]


def _decodes(spec: BackboneSpec) -> bool:
    return "decoder" in parts_of(spec.provides)


def _tasks(spec: BackboneSpec) -> Sequence[TaskSpec]:
    return [Repeat(), Point()] if _decodes(spec) else [Point()]
