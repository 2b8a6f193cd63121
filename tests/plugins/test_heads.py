"""The bundled heads against losses written out by hand."""

import numpy as np
import pytest
import torch

from helpers.small import SMALL
from ssmtl_toolkit.engine.head import IGNORE
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec


def head(text, classes=3):
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(1)
    return registry().resolve(HeadSpec, text).build(backbone, classes)


def example(ignored=0.2):
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(2, 3, 6, 5))
    target = rng.integers(0, 3, (2, 6, 5))
    target[rng.random(target.shape) < ignored] = IGNORE
    return maps, target


def softmax(maps):
    e = np.exp(maps - maps.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(maps, target):
    p = softmax(maps)
    terms = [-np.log(p[n, target[n, i, j], i, j]) for n, i, j in np.ndindex(*target.shape) if target[n, i, j] != IGNORE]
    return sum(terms) / len(terms)


def dice(maps, target):
    p, counted = softmax(maps), target != IGNORE
    losses = []
    for c in range(maps.shape[1]):
        truth, found = (target == c) & counted, p[:, c] * counted
        losses.append(1 - 2 * (found * truth).sum() / (found.sum() + truth.sum()) if truth.any() else 0.0)
    return np.mean(losses)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("ce", cross_entropy), ("dice", dice), ("ce+dice", lambda m, t: cross_entropy(m, t) + dice(m, t))],
)
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_segmentation_losses_are_those_written_by_hand_and_ignore_what_is_not_annotated(loss, expected, ignored):
    maps, target = example(ignored)
    found = head(f"segmentation:loss={loss}").loss(torch.tensor(maps, dtype=torch.float32), torch.tensor(target))
    assert float(found) == pytest.approx(expected(maps, target), rel=1e-5)


def test_pixels_that_are_not_annotated_have_no_gradient():
    maps, target = example(0.5)
    leaf = torch.tensor(maps, dtype=torch.float32, requires_grad=True)
    head("segmentation:loss=ce+dice").loss(leaf, torch.tensor(target)).backward()
    ignored = torch.tensor(target == IGNORE)[:, None].expand_as(leaf)
    assert leaf.grad[ignored].abs().max() == 0
    assert leaf.grad[~ignored].abs().min() > 0


def overlapping_example(ignored=0.3):
    rng = np.random.default_rng(2)
    target = rng.integers(0, 2, (2, 3, 6, 5))
    target[np.repeat(rng.random((2, 1, 6, 5)) < ignored, 3, axis=1)] = IGNORE
    return rng.normal(size=target.shape), target


def binary_cross_entropy(maps, target):
    p, counted = 1 / (1 + np.exp(-maps)), target != IGNORE
    return -np.log(np.where(target == 1, p, 1 - p))[counted].mean()


def dice_of_each(maps, target):
    p, counted = 1 / (1 + np.exp(-maps)), target != IGNORE
    truth, found = (target == 1) & counted, p * counted
    overlap, both = (found * truth).sum(axis=(0, 2, 3)), (found + truth).sum(axis=(0, 2, 3))
    return np.mean(1 - 2 * overlap / both)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("ce", binary_cross_entropy),
        ("dice", dice_of_each),
        ("ce+dice", lambda m, t: binary_cross_entropy(m, t) + dice_of_each(m, t)),
    ],
)
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_classes_that_overlap_are_learned_each_by_itself_with_the_loss_written_by_hand(loss, expected, ignored):
    maps, target = overlapping_example(ignored)
    leaf = torch.tensor(maps, dtype=torch.float32, requires_grad=True)
    found = head(f"segmentation:loss={loss}").loss(leaf, torch.tensor(target))
    assert found.item() == pytest.approx(expected(maps, target), rel=1e-5)
    found.backward()
    assert leaf.grad[torch.tensor(target == IGNORE)].abs().sum() == 0


def test_a_batch_that_nobody_annotated_has_loss_zero():
    maps, target = example()
    target[:] = IGNORE
    found = head("segmentation").loss(torch.tensor(maps, dtype=torch.float32), torch.tensor(target))
    assert float(found) == 0


def test_denoising_adds_noise_of_the_given_deviation_and_loses_the_mean_absolute_error():
    torch.manual_seed(0)
    clean = torch.randn(64, 1, 32, 32)
    denoise = head("denoising:sigma=0.3", 0)
    noise = denoise.degrade(clean) - clean
    assert float(noise.std()) == pytest.approx(0.3, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    other = torch.randn_like(clean)
    assert float(denoise.loss(other, clean)) == pytest.approx(np.abs(other.numpy() - clean.numpy()).mean(), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_denoising_gives_all_channels_and_segmentation_reads_all(channels):
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(channels).eval()
    image = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        for text, maps in (("denoising", channels), ("segmentation", 4)):
            built = registry().resolve(HeadSpec, text).build(backbone, 4)
            found = built(backbone(image))
            assert found.shape == (2, maps, 32, 32)
            for channel in range(channels):
                other = image.clone()
                other[:, channel] = 0
                assert not torch.equal(built(backbone(other)), found)
