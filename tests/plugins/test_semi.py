"""The bundled ways to learn from unlabelled slices, compared with independent computations on small maps."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from ssmtl_semi.consistency import MeanTeacher, UniMatch
from ssmtl_semi.pretext import Pretext
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.head import IGNORE
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.semi import SemiStep
from ssmtl_toolkit.engine.step import Batch, SharedEncoder
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import AugmentationSpec, BalancerSpec, HeadSpec, SemiSpec, TaskSpec
from ssmtl_toolkit.testing.sample import Small, batch_for

CLASSES = 3


def made(name, kind=SemiSpec):
    return registry().resolve(kind, name)


def a_step(image, truth, maps=None, progress=1.0, augment=(), loss="ce", **changes):
    """A step on slices (N, 1, H, W): the teacher answers `truth` (N, classes, H, W), the network `maps` if given."""
    torch.manual_seed(3)
    backbone = Small().build(1).eval()
    head = made(f"segmentation:loss={loss}", HeadSpec).build(backbone, CLASSES).eval()
    parts = {
        "batch": Batch(image, {}),
        "augmenter": Augmenter([made(name, AugmentationSpec) for name in augment]),
        "progress": progress,
        "backbone": backbone,
        "head": head if maps is None else (lambda features: maps),
        "loss": head.loss,
        "teach": lambda image: truth,
        "tasks": dict,
    }
    return SemiStep(**{**parts, **changes})


@pytest.fixture
def images():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def two():
    """What network and teacher say of four slices."""
    generator = torch.Generator().manual_seed(1)
    return tuple(2 * torch.randn(4, CLASSES, 8, 8, generator=generator) for _ in range(2))


@pytest.mark.parametrize(("progress", "ramp", "factor"), [(1.0, 0.5, 1.0), (0.2, 0.5, math.exp(-5 * 0.36)), (0, 0, 1)])
def test_mean_teacher_costs_the_squared_difference_of_the_probabilities(images, two, progress, ramp, factor):
    answer, truth = two
    loss = MeanTeacher(weight=0.7, ramp=ramp)(a_step(images, truth, answer, progress)).loss
    p, q = (softmax(maps.numpy().astype(float), axis=1) for maps in (answer, truth))
    assert loss.item() == pytest.approx(0.7 * factor * ((p - q) ** 2).sum(axis=1).mean(), rel=1e-5)


def test_the_weight_of_mean_teacher_rises_smoothly_to_its_full_value_and_stays(images, two):
    answer, truth = two
    method = MeanTeacher(weight=1.0, ramp=0.5)
    losses = [method(a_step(images, truth, answer, progress)).loss.item() for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert losses[0] == pytest.approx(math.exp(-5) * losses[-1], rel=1e-4)
    assert losses[0] < losses[1] < losses[2] == losses[3] == losses[4]


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.95])
def test_unimatch_costs_the_cross_entropy_of_the_sure_pixels_over_all_pixels(images, two, threshold):
    answer, truth = two
    output = UniMatch(weight=0.7, threshold=threshold, cutmix=0, dropout=0)(a_step(images, truth, answer))
    q, log_p = softmax(truth.numpy().astype(float), axis=1), log_softmax(answer.numpy().astype(float), axis=1)
    label, sure = q.argmax(axis=1), q.max(axis=1) >= threshold
    chosen = np.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
    assert output.loss.item() == pytest.approx(0.7 * -(chosen * sure).sum() / sure.size, rel=1e-5)
    assert np.array_equal(output.pseudo.labels.numpy(), label)
    assert np.array_equal(output.pseudo.sure.numpy(), sure)
    assert 0 < sure.mean() < 1 or threshold == 0


def test_pixels_that_the_teacher_is_not_sure_of_get_no_gradient(images, two):
    answer, truth = two
    maps = answer.clone().requires_grad_()
    output = UniMatch(weight=1, threshold=0.8, cutmix=0, dropout=0)(a_step(images, truth, maps))
    output.loss.backward()
    learned = maps.grad.abs().sum(dim=1) > 0
    assert torch.equal(learned, output.pseudo.sure)
    assert learned.any()
    assert not learned.all()


def test_where_nothing_is_sure_unimatch_costs_nothing(images, two):
    output = UniMatch(weight=1, threshold=0.9, cutmix=0.5, dropout=0.5)(
        a_step(images, torch.zeros_like(two[1]), loss="ce+dice")
    )
    assert output.loss.item() == 0
    assert not output.pseudo.sure.any()


def test_boxes_carry_their_labels_with_them():
    number = torch.arange(6).view(6, 1, 1).expand(6, 16, 16)
    torch.manual_seed(0)
    image, labels = UniMatch(1, 0.95, cutmix=0.5, dropout=0)._mixed(number[:, None].float(), number)
    assert torch.equal(image[:, 0].long(), labels)
    moved = labels != number
    assert 0 < moved.float().mean() < 0.5
    for changed in moved:  # a box each, or none
        rows, columns = (changed.any(dim=1), changed.any(dim=0))
        assert torch.equal(changed, rows[:, None] & columns[None])
    assert IGNORE not in labels


def test_the_two_strong_views_differ_and_the_third_shows_the_slices_as_they_are(images, two):
    shown = []

    def backbone(image):
        shown.append(image)
        return Small().build(1).eval()(image)

    step = a_step(images, two[1], augment=("noise:p=1",), backbone=backbone)
    torch.manual_seed(0)
    UniMatch(weight=1, threshold=0.5, cutmix=0, dropout=0.5)(step)
    plain, first, second = shown
    assert torch.equal(plain, images)
    assert not torch.equal(first, second)
    assert not torch.equal(first, images)


def test_the_third_view_lacks_whole_channels_of_the_encoder(images, two):
    seen = []
    plain = a_step(images, two[1])
    step = a_step(images, two[1], head=lambda features: seen.append(features.pyramid) or plain.head(features))
    torch.manual_seed(0)
    UniMatch(weight=1, threshold=0.5, cutmix=0, dropout=0.5)(step)
    dropped, whole = seen[0], step.backbone(images).pyramid
    for some, every in zip(dropped, whole, strict=True):
        gone = (some == 0).all(dim=3).all(dim=2) & (every != 0).any(dim=3).any(dim=2)
        assert 0 < gone.float().mean() < 1
        assert torch.allclose(some[~gone], 2 * every[~gone])


def test_pretext_costs_what_the_pre_training_would_times_its_weight():
    tasks = [made(text, TaskSpec) for text in ("reconstruct_prev:weight=0.5", "reconstruct_next", "slice_siam:t=1")]
    torch.manual_seed(0)
    model = MultiTask.build(Small(), tasks, made("fixed", BalancerSpec), 1)
    batch = batch_for(tasks)
    torch.manual_seed(0)
    total, _ = model(batch)
    spec = made('pretext:tasks=["reconstruct_prev:weight=0.5","reconstruct_next","slice_siam:t=1"],weight=0.3')
    assert [str(made(text, TaskSpec)) for text in spec.pretext()] == model.labels

    def outputs():
        every = model.outputs(batch, SharedEncoder(model.backbone))
        return {
            label: one._replace(loss=task.weight * one.loss)
            for task, (label, one) in zip(tasks, every.items(), strict=True)
        }

    torch.manual_seed(0)
    output = spec.build()(a_step(batch.anchor, None, tasks=outputs))
    assert isinstance(spec.build(), Pretext)
    assert output.loss.item() == pytest.approx(0.3 * total.item(), rel=1e-6)
    assert output.pseudo is None
