"""What changes together when slices are augmented, what stays, and what the draws depend on."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from scipy import ndimage

from ssmtl_toolkit import SsmtlError
from ssmtl_toolkit.engine.augmentation import Augmentation, Augmenter, uniform
from ssmtl_toolkit.engine.head import IGNORE
from ssmtl_toolkit.engine.step import Batch, Companion, Step
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import AugmentationSpec

PLACES = ["affine:p=0.7,rotate=180", "scale:p=0.7,by=2", "elastic:p=0.7", "flip:axes=both"]
VALUES = ["intensity:p=0.7", "contrast:p=0.7", "gamma:p=0.7", "noise:p=0.7", "blur:p=0.7", "low_resolution:p=0.7"]
MIXING = "cutmix:p=0.7"
SEEDS = st.integers(0, 2**32)


def augmenter(*texts):
    return Augmenter([registry().resolve(AugmentationSpec, text) for text in texts])


def slices(number=6, channels=1, size=32, seed=0):
    return torch.randn(number, channels, size, size, generator=torch.Generator().manual_seed(seed))


def regions(number=6, size=32):
    """Label maps (N, H, W) of 0 and 1 with large areas."""
    noise = np.random.default_rng(0).normal(size=(number, size, size))
    return torch.tensor(ndimage.gaussian_filter(noise, (0, 4, 4)) > 0).long()


class Turn(AugmentationSpec):
    """Turn every slice by the same angle."""

    name = "turn"
    changes = frozenset({"place"})

    p: float = Field(1.0, gt=0, le=1, description="Probability.")
    degrees: float = Field(30.0, description="Angle.")

    def build(self):
        return Turned(math.radians(self.degrees))


class Turned(Augmentation):
    def __init__(self, angle):
        self.matrix = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def place(self, points):
        return points @ self.matrix.T


class Wrong(AugmentationSpec):
    """Return what it must not."""

    name = "wrong"
    changes = frozenset({"values", "batch"})

    p: float = Field(1.0, gt=0, le=1, description="Probability.")
    where: str = Field("values", description="In which method.")

    def build(self):
        return WronglyChanged(self.where)


class WronglyChanged(Augmentation):
    def __init__(self, where):
        self.where = where

    def values(self, image):
        if self.where == "fails":
            raise RuntimeError("no more")
        return image[..., :8] if self.where == "values" else image

    def batch(self, image, target, partner):
        if self.where == "batch":
            return image[:, :, :1], target  # would be broadcast over the rows
        return image, None if self.where == "target" else target


class Double(AugmentationSpec):
    """Draw a factor of 2 for every slice that is chosen."""

    name = "double"
    changes = frozenset({"values"})

    def build(self):
        return Doubled()


class Doubled(Augmentation):
    def values(self, image):
        return image * uniform(len(image), 2, 2, image.device)[:, None, None, None]


@given(seed=SEEDS, chosen=st.sets(st.sampled_from(PLACES), min_size=1))
def test_labels_move_with_the_pixels(seed, chosen):
    labels = regions()
    torch.manual_seed(seed)
    image, target = augmenter(*sorted(chosen)).labelled(labels[:, None].float(), labels)
    inside = (target != IGNORE) & ((image[:, 0] - image[:, 0].round()).abs() < 1e-3)  # not between two areas
    assert torch.equal(image[:, 0].round().long()[inside], target[inside])
    assert inside.float().mean() > 0.3
    assert set(target.unique().tolist()) <= {0, 1, IGNORE}


@given(seed=SEEDS, chosen=st.sets(st.sampled_from(VALUES), min_size=1))
def test_labels_stay_where_only_values_change(seed, chosen):
    labels = regions()
    torch.manual_seed(seed)
    image, target = augmenter(*sorted(chosen)).labelled(slices(), labels)
    assert torch.equal(target, labels)
    assert image.shape == slices().shape
    assert torch.isfinite(image).all()


@given(seed=SEEDS, chosen=st.sets(st.sampled_from([*PLACES, *VALUES, MIXING]), min_size=1))
def test_draws_depend_on_torchs_generator_alone_and_nothing_is_changed_in_place(seed, chosen):
    changes, image, labels = augmenter(*sorted(chosen)), slices(channels=2), regions()
    before = image.clone(), labels.clone()
    torch.manual_seed(seed)
    first = changes.labelled(image, labels)
    random.seed(seed + 1)
    np.random.seed(seed % 2**31 + 1)
    torch.manual_seed(seed)
    again = augmenter(*sorted(chosen)).labelled(image, labels)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])


def test_pixels_are_interpolated_once_however_often_they_move():
    image = slices()
    there_and_back = Augmenter([Turn(degrees=30), Turn(degrees=-30)]).labelled(image, regions())[0]
    assert torch.allclose(there_and_back, image, atol=1e-4)
    thrice = Augmenter([Turn(degrees=30)] * 3).labelled(image, regions())[0]
    assert torch.allclose(thrice, image.rot90(1, (2, 3)), atol=1e-4)


@pytest.mark.parametrize("text", [*PLACES, *VALUES, MIXING])
def test_a_batch_in_which_no_slice_is_chosen_keeps_its_bits(text):
    image, labels = slices(), regions()
    rarely = registry().resolve(AugmentationSpec, text).model_copy(update={"p": 1e-9})
    torch.manual_seed(0)
    new, target = Augmenter([rarely]).labelled(image, labels)
    assert torch.equal(new, image)
    assert torch.equal(target, labels)


def test_as_many_slices_are_changed_as_p_says():
    torch.manual_seed(0)
    new, _ = Augmenter([Double(p=0.3)]).labelled(torch.ones(4000, 1, 2, 2), torch.zeros(4000, 2, 2, dtype=torch.long))
    assert set(new.unique().tolist()) == {1.0, 2.0}
    assert (new[:, 0, 0, 0] == 2).float().mean() == pytest.approx(0.3, abs=0.03)


def test_slices_that_are_their_own_targets_keep_their_values_and_move_with_them():
    image = slices()
    torch.manual_seed(0)
    new, target = augmenter(PLACES[0], "noise:p=1", MIXING).labelled(image, None)
    torch.manual_seed(0)
    moved, _ = augmenter(PLACES[0]).labelled(image, regions())
    assert torch.equal(new, target)
    assert set(new.unique().tolist()) <= set(moved.unique().tolist())  # no noise
    assert not torch.equal(new, image)


def test_weak_and_strong_forms_share_their_places():
    torch.manual_seed(0)
    weak, strong = augmenter(*PLACES, "intensity:p=1").weak_and_strong(slices())
    torch.manual_seed(0)
    assert torch.equal(weak, augmenter(*PLACES).labelled(slices(), regions())[0])
    assert not torch.equal(weak, strong)
    for one, other in zip(weak, strong, strict=True):
        assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > 0.999


def batch(has=(0, 1, 3, 5)):
    """Six anchors; `next` of some of them is the anchor itself, `all` likewise of each."""
    anchor, rows = slices(), torch.tensor(has, dtype=torch.long)
    some = Companion(anchor[rows].clone(), torch.ones_like(rows), rows)
    every = Companion(anchor.clone(), torch.ones(6, dtype=torch.long))
    return Batch(anchor, {"a": {"next": some, "all": every}, "b": {"next": some}}, seed=7, first=False)


@given(seed=SEEDS, has=st.sets(st.integers(0, 5)))
def test_companions_move_as_their_anchors_do_and_keep_their_values(seed, has):
    given_batch = batch(sorted(has))
    torch.manual_seed(seed)
    moved = augmenter(*PLACES).unlabelled(given_batch)
    torch.manual_seed(seed)
    new = augmenter(*PLACES, "intensity:p=1", "noise:p=1").unlabelled(given_batch)
    some, every = new.companions["a"]["next"], new.companions["a"]["all"]
    assert torch.allclose(every.image, moved.anchor, atol=1e-5)
    assert torch.allclose(some.image, some.of(moved.anchor), atol=1e-5)
    assert torch.equal(some.rows, given_batch.companions["a"]["next"].rows)
    assert not torch.equal(new.anchor, moved.anchor)
    assert torch.equal(given_batch.anchor, slices())


def test_views_of_a_batch_are_changed_while_its_slices_stay_as_they_are():
    given_batch = batch()
    new = augmenter(*PLACES, "intensity:p=1").with_views(given_batch)
    assert new.anchor is given_batch.anchor
    assert new.companions is given_batch.companions
    assert (new.seed, new.first) == (7, False)
    torch.manual_seed(3)
    moved = new.view()
    torch.manual_seed(3)
    assert torch.equal(moved, augmenter(*PLACES, "intensity:p=1").view(slices()))
    assert not torch.equal(moved, new.view())
    torch.manual_seed(3)
    recoloured = new.recoloured()
    torch.manual_seed(3)
    assert torch.equal(recoloured, augmenter("intensity:p=1").other_values(slices()))


def test_clean_anchors_move_as_the_anchors_do_and_keep_their_values():
    torch.manual_seed(3)
    moved = augmenter(*PLACES).unlabelled(batch())
    torch.manual_seed(3)
    new = augmenter(*PLACES, "intensity:p=1", "noise:p=1").unlabelled(batch())
    assert torch.equal(new.clean, moved.anchor)
    assert moved.clean is moved.anchor
    assert not torch.equal(new.anchor, new.clean)
    assert batch().clean.equal(slices())


def test_companions_that_tasks_share_stay_one_object_and_the_rest_of_a_batch_stays():
    torch.manual_seed(0)
    given_batch = batch()
    new = augmenter(*PLACES).unlabelled(given_batch)
    assert new.companions["a"]["next"] is new.companions["b"]["next"]
    assert new.companions["a"]["next"] is not new.companions["a"]["all"]
    assert new.position is given_batch.position
    assert (new.seed, new.first) == (7, False)


def test_companions_are_left_alone_where_only_values_change():
    given_batch = batch()
    new = augmenter("intensity:p=1").unlabelled(given_batch)
    assert new.companions is given_batch.companions
    assert not torch.equal(new.anchor, given_batch.anchor)


@given(seed=SEEDS)
def test_a_view_that_is_not_moved_shows_the_places_of_the_anchor_with_values_of_its_own(seed):
    torch.manual_seed(seed)
    new = augmenter(*PLACES, "intensity:p=1").unlabelled(batch())
    one, two = Step(new, None, {}).view(moved=False), Step(new, None, {}).view(moved=False)
    for anchor, first, second in zip(new.anchor, one, two, strict=True):
        assert not torch.equal(anchor, first)
        assert not torch.equal(first, second)
        assert np.corrcoef(anchor.flatten(), first.flatten())[0, 1] > 0.999
    pairs = zip(new.anchor, new.view(), strict=True)
    assert min(np.corrcoef(anchor.flatten(), moved.flatten())[0, 1] for anchor, moved in pairs) < 0.9


def test_views_are_the_anchors_where_nothing_is_augmented():
    step = Step(batch(), None, {})
    assert step.view() is step.view(moved=False) is step.anchor


def test_without_augmentations_there_is_nothing_to_do():
    assert not augmenter()
    image, labels = slices(), regions()
    new, target = augmenter().labelled(image, labels)
    assert new is image
    assert target is labels


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("values", r"augmentation 'wrong' failed: ValueError: values\(\) must return the shape \(6, 1, 32, 32\), not"),
        ("batch", r"batch\(\) must return the shape \(6, 1, 32, 32\), not \(6, 1, 1, 32\)"),
        ("target", r"batch\(\), of targets, must return a tensor, not NoneType"),
        ("fails", r"augmentation 'wrong:where=fails' failed: RuntimeError: no more"),
    ],
)
def test_an_augmentation_that_returns_something_else_is_named(where, message):
    with pytest.raises(SsmtlError, match=message):
        Augmenter([Wrong(where=where)]).labelled(slices(), regions())
