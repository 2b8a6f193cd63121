"""Checks of augmentations: on made-up slices and points, by all that `changes` lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from ssmtl_toolkit.engine.augmentation import Augmentation, Augmenter, identity
from ssmtl_toolkit.engine.head import IGNORE
from ssmtl_toolkit.specs import AugmentationSpec, Change
from ssmtl_toolkit.testing.case import Bench, check, fail, require
from ssmtl_toolkit.testing.sample import SIZE

SLICES = 8
SHAPES = ((1, SIZE, SIZE), (3, SIZE, SIZE), (1, SIZE - 8, SIZE + 8))
"""Channels, rows, columns."""
SEEDS = range(5)


class Given(NamedTuple):
    """What an augmentation is given: as many points, slices, labels and partners as there are slices."""

    points: Tensor
    image: Tensor
    labels: Tensor
    partner: Tensor


def _does(what: str) -> Any:
    return lambda spec: what in spec.changes


@check(AugmentationSpec, "it gives points, slices and targets of the shapes and types that it is given")
def shapes_stay(bench: Bench) -> None:
    spec = _spec(bench)
    unknown = sorted(spec.changes - set(get_args(Change)))
    require(bool(spec.changes) and not unknown, f"changes is {sorted(spec.changes)}; of place, values and batch")
    for shape in SHAPES:
        given = _given(*shape)
        for name, new in _apply(spec, given).items():
            old = _before(given)[name]
            require(isinstance(new, Tensor), f"{name} is {type(new).__name__}, not a tensor")
            require(
                (new.shape, new.dtype) == (old.shape, old.dtype),
                f"{name} is {new.dtype} {tuple(new.shape)} of {old.dtype} {tuple(old.shape)}; keep both",
            )


@check(AugmentationSpec, "it leaves what it is given as it is")
def given_stays(bench: Bench) -> None:
    given = _given()
    before = Given(*(tensor.clone() for tensor in given))
    _apply(_spec(bench), given)
    changed = [name for name, a, b in zip(Given._fields, before, given, strict=True) if not torch.equal(a, b)]
    require(not changed, f"it changes {', '.join(changed)} in place, which others still read; work on a copy")


@check(AugmentationSpec, "it changes what its `changes` lists, and nothing else")
def changes_are_listed(bench: Bench) -> None:
    spec, given = _spec(bench), _given()
    for what in get_args(Change):
        names = [name for name in _before(given) if name.split(" ")[0] == what]
        seen = any(
            not torch.equal(_apply(spec, given, seed, all_of_it=True)[name], _before(given)[name])
            for seed in SEEDS
            for name in names
        )
        if what in spec.changes:
            require(seen, f"{what}() changes nothing in {len(SEEDS)} tries; take {what!r} out of `changes`")
        else:
            require(not seen, f"{what}() is never called; add {what!r} to `changes`")


@check(AugmentationSpec, "the seed of torch's global generator decides all that it draws")
def seed_decides(bench: Bench) -> None:
    first, again, *others = (_patterns(_spec(bench), seed) for seed in (0, *SEEDS))
    for what, pattern in first.items():
        require(
            torch.equal(pattern, again[what]),
            f"{what}() does different things with one seed; draw only from torch's global generator",
        )
        require(
            _are_alike(pattern) or any(not torch.equal(pattern, other[what]) for other in others),
            f"{what}() draws the same with any seed; draw from torch's global generator",
        )


@check(AugmentationSpec, "each slice gets its own draws")
def slices_differ(bench: Bench) -> None:
    tries = [_patterns(_spec(bench), seed) for seed in SEEDS]
    for what, pattern in tries[0].items():
        drawn = any(not torch.equal(pattern, other[what]) for other in tries)
        require(
            not (drawn and all(_are_alike(other[what]) for other in tries)),
            f"{what}() changes equal slices alike; draw for each of them, as by uniform(len(image), …)",
        )


@check(AugmentationSpec, "values stay finite: of one single value, of very large ones", applies=_does("values"))
def values_stay_finite(bench: Bench) -> None:
    noise = _given().image
    spot = torch.zeros_like(noise)
    spot[..., 0, 0] = 1
    for image, which in (
        (torch.zeros_like(noise), "zeros alone"),
        (torch.full_like(noise, -3), "a single value"),
        (spot, "one bright pixel"),
        (noise * 1e6, "values of a million"),
    ):
        for seed in SEEDS:
            new = _apply(_spec(bench), _given()._replace(image=image), seed)["values"]
            _finite(new, f"of {which} some value", "guard divisions, logs and powers")


@check(AugmentationSpec, "points are finite, and labels follow them", applies=_does("place"))
def labels_follow(bench: Bench) -> None:
    spec, given = _spec(bench), _given()
    for seed in SEEDS:
        points = _apply(spec, given, seed)["place"]
        _finite(points, "a point", "guard divisions")
    always = spec.model_copy(update={"p": 1.0})
    torch.manual_seed(0)
    _, labels = Augmenter([always]).labelled(given.image, given.labels)
    new = sorted({*labels.unique().tolist()} - {*given.labels.unique().tolist(), IGNORE})
    require(not new, f"labels become {new}, which none was before")
    inside = float((labels != IGNORE).float().mean())
    require(
        inside > 0,
        "all pixels come from outside of the slice; points are (x, y), from -1 to 1 between its outer edges",
    )


@check(AugmentationSpec, "labels go with the pixels of other slices", applies=_does("batch"))
def labels_go_with_pixels(bench: Bench) -> None:
    given = _given()
    number = torch.arange(given.image[:, :1].numel()).view(given.image[:, :1].shape)  # of each pixel of the batch
    numbered = given._replace(image=number.float(), labels=(number * 7 % 11)[:, 0])
    for seed in SEEDS:
        new = _apply(_spec(bench), numbered, seed)
        source = new["batch of slices"].long().clamp(0, number.numel() - 1)
        require(
            torch.equal(source.float(), new["batch of slices"]),
            "some values are in none of the slices; take whole pixels, for labels cannot be mixed",
        )
        of = source.flatten(1) // number[0].numel()
        own, partner = torch.arange(SLICES)[:, None], numbered.partner[:, None]
        require(bool(((of == own) | (of == partner)).all()), "pixels come from slices that are not the partner's")
        labels = numbered.labels.flatten()[source[:, 0]]
        require(torch.equal(labels, new["batch of labels"]), "pixels and labels come from different places; take both")
        require(
            torch.equal(new["batch of slices"], new["batch of images"]),
            "a target (N, C, H, W) is not changed as the slices are; take both from the same places",
        )


@check(AugmentationSpec, "a single slice is changed too")
def single_slice(bench: Bench) -> None:
    spec, given = _spec(bench), _given()
    first, second, third, partner = (tensor[:1] for tensor in given)
    alone = Given(first, second, third, torch.zeros_like(partner))
    for name, new in _apply(spec, alone).items():
        require(new.shape == _before(alone)[name].shape, f"{name} of one slice has the shape {tuple(new.shape)}")
        _finite(new, f"{name} of one slice", "use no statistics of the batch")


@check(AugmentationSpec, "it works under bf16 autocast")
def works_in_bf16(bench: Bench) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        changed = _apply(_spec(bench), _given())
    for name, new in changed.items():
        _finite(new, f"under bf16 autocast {name}", "compute it in float32")


def _spec(bench: Bench) -> AugmentationSpec:
    assert isinstance(bench.spec, AugmentationSpec)
    return bench.spec


def _given(channels: int = 1, height: int = SIZE, width: int = SIZE) -> Given:
    """Slices with mean 0 and variance 1, their places, and where they are bright or dark."""
    image = torch.randn(SLICES, channels, height, width, generator=torch.Generator().manual_seed(0))
    labels = (image > 0.5).long() + 2 * (image < -0.5).long()
    return Given(identity(image).clone(), image, labels[:, 0], torch.arange(SLICES).roll(1))


def _before(given: Given) -> Mapping[str, Tensor]:
    """What `_apply` gives of an augmentation that changes nothing."""
    return {
        "place": given.points,
        "values": given.image,
        "batch of slices": given.image,
        "batch of labels": given.labels,
        "batch of images": given.image,
    }


def _apply(spec: AugmentationSpec, given: Given, seed: int = 0, all_of_it: bool = False) -> dict[str, Tensor]:
    """What it makes of this by the methods that `changes` lists, or by all of them; each from this seed."""
    augmentation = spec.build()
    if not isinstance(augmentation, Augmentation):
        fail(f"build gives {type(augmentation).__name__}; give an Augmentation")
    changes = set(get_args(Change)) if all_of_it else spec.changes
    changed: dict[str, Tensor] = {}
    if "place" in changes:
        torch.manual_seed(seed)
        changed["place"] = augmentation.place(given.points)
    if "values" in changes:
        torch.manual_seed(seed)
        changed["values"] = augmentation.values(given.image)
    if "batch" in changes:
        torch.manual_seed(seed)
        changed["batch of slices"], changed["batch of labels"] = augmentation.batch(
            given.image, given.labels, given.partner
        )
        torch.manual_seed(seed)
        _, changed["batch of images"] = augmentation.batch(given.image, given.image, given.partner)
    return changed


def _patterns(spec: AugmentationSpec, seed: int) -> dict[str, Tensor]:
    """What it does with slices that are equal, (N, …); for a batch: which pixels become those of another slice."""
    given = _given()
    equal = given._replace(image=given.image[:1].expand_as(given.image).clone())
    patterns = {what: new for what, new in _apply(spec, equal, seed).items() if what in ("place", "values")}
    if "batch" in spec.changes:
        flat = torch.arange(SLICES).float()[:, None, None, None].expand_as(given.image).clone()
        patterns["batch"] = _apply(spec, given._replace(image=flat), seed)["batch of slices"] != flat
    return patterns


def _are_alike(pattern: Tensor) -> bool:
    return torch.equal(pattern, pattern[:1].expand_as(pattern))


def _finite(tensor: Tensor, what: str, todo: str) -> None:
    odd = tensor[~torch.isfinite(tensor)]
    if len(odd):
        fail(f"{what} is {float(odd[0])}; {todo}")
