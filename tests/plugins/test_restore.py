"""Slices given back from corrupted ones: losses and trivial answers by numpy, and what tasks share."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import two_ranks
from helpers.slices import numbers
from helpers.slices import smooth_slices as slices
from helpers.small import SMALL
from helpers.two_ranks import batch_of, model_of
from ssmtl_reconstruct import ReconstructNext
from ssmtl_restore import Denoise, Inpaint, Restore
from ssmtl_restore.corruptions import Mix
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.masking import Masking
from ssmtl_toolkit.engine.step import Batch, Companion, SharedEncoder, Step
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import AugmentationSpec, BackboneSpec, TaskSpec
from ssmtl_toolkit.testing import cases


def run(spec, batch, companions=None):
    """A task's output of a batch in eval mode, and what it decodes of the images that the encoder was given."""
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(batch.anchor.shape[1]).eval()
    module, seen = spec.build(backbone).eval(), []
    backbone.encoder.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    torch.manual_seed(7)
    output = module(Step(batch, SharedEncoder(backbone), companions or {}))
    (image,) = seen
    return output, numbers(module.decode(backbone(image).dense)), numbers(image)


def copies(given, truth):
    """The trivial answers of slices given and to be given, by least squares for each channel."""
    pairs = [(given[:, c].ravel(), truth[:, c].ravel()) for c in range(truth.shape[1])]
    best = [np.linalg.lstsq(x[:, None], y, rcond=None)[0][0] for x, y in pairs]
    return {
        "copy": np.mean((given - truth) ** 2),
        "blank": np.mean(truth**2),
        "scaled_copy": np.mean([np.mean((a * x - y) ** 2) for a, (x, y) in zip(best, pairs, strict=True)]),
    }


def floats(metrics):
    return {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("fill", ["zero", "noise", "swap"])
def test_inpainting_is_the_mean_squared_error_of_covered_pixels_alone(fill, channels):
    anchor = slices(channels=channels) + 0.3
    output, predicted, seen = run(Inpaint(mask=0.6, patch=0.25, fill=fill), Batch(anchor, {}))
    torch.manual_seed(7)
    masked = Masking(0.6, 0.25, fill).cover(anchor)
    assert np.array_equal(seen, numbers(masked.image))
    errors = {"loss": [], "blank": [], "mean": []}
    for n, covered in enumerate(masked.covered[:, 0].numpy()):
        for c in range(channels):
            truth = numbers(anchor)[n, c]
            mean = np.mean([truth[y, x] for y in range(32) for x in range(32) if not covered[y, x]])
            for y, x in zip(*np.nonzero(covered), strict=True):
                errors["loss"].append((predicted[n, c, y, x] - truth[y, x]) ** 2)
                errors["blank"].append(truth[y, x] ** 2)
                errors["mean"].append((mean - truth[y, x]) ** 2)
    expected = {name: np.mean(values) for name, values in errors.items()}
    assert {"loss": output.loss.item(), **floats(output.metrics)} == pytest.approx(expected, rel=1e-4)
    assert len(errors["loss"]) == pytest.approx(0.6 * anchor.numel(), rel=0.1)
    assert output.pairs == 5


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("predict", ["noise", "image"])
def test_denoising_predicts_the_noise_at_unit_variance_or_the_slice(predict, channels):
    anchor = slices(channels=channels)
    output, predicted, seen = run(Denoise(sigma=0.4, predict=predict), Batch(anchor, {}))
    noise = (seen - numbers(anchor)) / 0.4
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(noise[0, 0].ravel(), noise[1, 0].ravel())[0, 1]) < 0.1
    truth = noise if predict == "noise" else numbers(anchor)
    assert output.loss.item() == pytest.approx(np.mean((predicted - truth) ** 2), rel=1e-4)
    assert floats(output.metrics) == pytest.approx(copies(seen, truth), rel=1e-4)
    if predict == "image":
        assert floats(output.metrics)["copy"] == pytest.approx(0.4**2, rel=0.1)


def test_a_range_of_sigma_is_drawn_evenly_for_each_slice():
    anchor = torch.zeros(300, 1, 32, 32)
    _, _, seen = run(Denoise(sigma="0.2..1"), Batch(anchor, {}))
    sigma = seen.std(axis=(1, 2, 3))
    assert sigma.min() > 0.18
    assert sigma.max() < 1.08
    assert np.histogram(sigma, bins=4, range=(0.2, 1))[0].tolist() == pytest.approx([75] * 4, abs=25)


@pytest.mark.parametrize("channels", [1, 2])
def test_restoring_is_the_mean_squared_error_to_the_slice_of_what_the_mix_left(channels):
    anchor = slices(channels=channels)
    output, predicted, seen = run(Restore(), Batch(anchor, {}))
    torch.manual_seed(7)
    assert np.array_equal(seen, numbers(Mix(0.5, 0.5, 0.5, 0.5, 0.5).corrupt(anchor)))
    truth = numbers(anchor)
    assert output.loss.item() == pytest.approx(np.mean((predicted - truth) ** 2), rel=1e-4)
    assert floats(output.metrics) == pytest.approx(copies(seen, truth), rel=1e-4)
    assert 0 < float(output.metrics["copy"]) < 1


@pytest.mark.parametrize("spec", [Inpaint(), Denoise(predict="image"), Restore()], ids=str)
def test_with_augmentation_the_slice_is_given_back_without_the_other_values(spec):
    anchor = slices()
    changed = Augmenter([registry().resolve(AugmentationSpec, "intensity:p=1")]).unlabelled(Batch(anchor, {}))
    output, _, _ = run(spec, changed)
    plain, _, _ = run(spec, Batch(anchor, {}))
    assert float(output.metrics["blank"]) == pytest.approx(float(plain.metrics["blank"]), rel=1e-5)
    assert output.loss.item() != pytest.approx(plain.loss.item(), rel=1e-5)


def masked_next(fill="zero"):
    rows = torch.tensor([0, 2, 3])
    anchor, target = slices(), slices(3, seed=1)
    companions = {"target": Companion(target, torch.ones_like(rows), rows)}
    spec = ReconstructNext(t=1, mask=0.5, patch=0.25, fill=fill)
    return (anchor, target, rows, *run(spec, Batch(anchor, {}), companions))


@pytest.mark.parametrize("fill", ["zero", "noise", "swap"])
def test_the_next_slice_is_predicted_from_the_covered_anchor_and_compared_with_what_is_left_of_it(fill):
    anchor, target, rows, output, predicted, seen = masked_next(fill)
    torch.manual_seed(7)
    masked = Masking(0.5, 0.25, fill).cover(anchor)
    assert np.array_equal(seen, numbers(masked.image))
    truth, rows = numbers(target), rows.numpy()
    assert output.loss.item() == pytest.approx(np.mean((predicted[rows] - truth) ** 2), rel=1e-4)
    left = np.where(numbers(masked.covered)[rows], 0, numbers(anchor)[rows])
    assert floats(output.metrics) == pytest.approx(copies(left, truth), rel=1e-4)
    assert output.pairs == 3


def test_without_a_mask_nothing_is_drawn():
    anchor, target = slices(), slices(seed=1)
    companions = {"target": Companion(target, torch.ones(5, dtype=torch.long))}
    backbone = registry().resolve(BackboneSpec, SMALL).build(1)
    module = ReconstructNext(t=1, patch=0.5, fill="noise").build(backbone)
    state = torch.get_rng_state()
    module(Step(Batch(anchor, {}), SharedEncoder(backbone), companions))
    assert torch.equal(torch.get_rng_state(), state)


SHARING = (
    *("inpaint:mask=0.5", "reconstruct_prev:t=1,mask=0.5", "reconstruct_next:t=2,mask=0.5"),
    *("denoise", "denoise:predict=image", "restore", "restore:weight=0.5"),
)


def test_tasks_that_corrupt_alike_share_one_forward_pass():
    model, calls = model_of("fixed", SHARING), Counter()
    model.backbone.encoder.register_forward_hook(lambda *_: calls.update(["encoder"]))
    model.backbone.decoder.register_forward_hook(lambda *_: calls.update(["decoder"]))
    model(batch_of(0, SHARING))
    assert calls == {"encoder": 3, "decoder": 3}  # covered, noisy, mixed
    model(batch_of(0, SHARING))
    assert calls["encoder"] == 6  # a batch that is seen again is corrupted anew


def test_every_batch_is_corrupted_by_other_draws():
    seen = []
    model = model_of("fixed", ("inpaint",))
    model.backbone.encoder.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    for _ in range(2):
        model(batch_of(0, ("inpaint",)))
    assert not torch.equal(*seen)


BESIDE = ("inpaint", "denoise", "restore", "reconstruct_next:t=2,mask=0.5", two_ranks.PREV, two_ranks.SIAM)
AT_THE_BACKBONE = [balancer for balancer in two_ranks.BALANCERS if "at=features" not in balancer and balancer != "mgda"]


@pytest.mark.parametrize("balancer", AT_THE_BACKBONE)
def test_they_train_beside_the_papers_tasks_under_every_balancer(balancer):
    model = model_of(balancer, BESIDE)
    for index in range(2):
        total, outputs = model(batch_of(index, BESIDE))
        model.zero_grad()
        total.backward()
        losses = torch.stack([output.loss.detach() for output in outputs.values()])
        model.balancer.updated(losses, 0.9 * losses)
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(task.decode.weight.grad.any() for task in model.tasks if hasattr(task, "decode"))


@pytest.mark.parametrize("balancer", ["mgda", "pcgrad:at=features", "upgrad:at=features"])
def test_at_the_features_those_are_compared_that_see_the_same_image(balancer):
    alike = SHARING[:3]
    total, _ = model_of(balancer, alike)(batch_of(0, alike))
    assert total.isfinite()
    for other in ("inpaint:mask=0.75", "denoise", two_ranks.PREV):
        unlike = (SHARING[0], other)
        with pytest.raises(UsageError, match=r"read features of different images.*at=backbone"):
            model_of(balancer, unlike)(batch_of(0, unlike))


def test_a_sigma_is_a_number_or_a_range():
    found = {text: registry().resolve(TaskSpec, f"denoise:sigma={text}") for text in ("2", "0..1", "0.1 .. 1.50")}
    assert [spec.levels() for spec in found.values()] == [(2, 2), (0, 1), (0.1, 1.5)]
    assert [str(spec) for spec in found.values()] == [f"denoise:sigma={text}" for text in ("2.0", "0..1", "0.1..1.5")]


@given(low=st.floats(0, 100), high=st.floats(0, 100))
def test_a_range_reads_back(low, high):
    if low < high:
        spec = Denoise(sigma=f"{low}..{high}")
        assert spec.levels() == (low, high)
        assert registry().resolve(TaskSpec, str(spec)) == spec


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "1..0.5", "0..inf", "..1", "1..2..3", "true", "much"])
def test_what_is_no_sigma_is_refused(text):
    with pytest.raises(UsageError, match=r"'sigma': should be a number above 0, such as 0.5, or a range"):
        registry().resolve(TaskSpec, f"denoise:sigma={text}")


def test_a_mix_without_any_corruption_is_refused():
    with pytest.raises(UsageError, match="restore: curve, blur, shuffle, noise and cutout are all 0"):
        registry().resolve(TaskSpec, "restore:curve=0,blur=0,shuffle=0,noise=0,cutout=0")


@pytest.mark.slow
def test_a_run_learns_them(ssmtl, tmp_path):
    words = ("--data", "phantom:patients=4", "--size", 32, "--batch-size", 4, "--steps", 100, "--lr", 1e-2)
    tasks = ("inpaint", "reconstruct_next:t=2,mask=0.75", "denoise:predict=image,sigma=1", "restore")
    flags = [word for task in tasks for word in ("--task", task)]
    words += ("--backbone", "unet:encoder=plain,width=4", "--held-out", 0, "--out", "run", "--json")
    done = ssmtl("run", *words, *flags)
    assert done.returncode == 0, done.stderr
    assert {each["verdict"] for each in json.loads(done.stdout)["tasks"].values()} == {"learned"}


@pytest.mark.parametrize("case", [case for name in ("inpaint", "denoise", "restore") for case in cases(name)], ids=str)
def test_they_keep_the_contract(case):
    case.run()


VARIANTS = (
    ReconstructNext(t=2, mask=0.5),
    Inpaint(fill="noise"),
    Inpaint(fill="swap"),
    Denoise(sigma="0..1", predict="image"),
)


@pytest.mark.parametrize("case", [case for spec in VARIANTS for case in cases(spec)], ids=str)
def test_other_options_keep_it_too(case):
    if "two processes" not in case.check.title:  # they make no difference there
        case.run()
