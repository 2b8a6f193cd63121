"""Patches of large slices: random ones to learn from, at one place for all that belong together; windows to predict."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small import SMALL, ball
from ssmtl_toolkit.data.patches import Patches, covered, middle
from ssmtl_toolkit.data.sampling import Extent, Plan, Sampler
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.pretraining.loader import Loader

SIDES = [(20, 24), (16, 30)]
SIZE, SLICES = 16, 9


def numbered():
    """Two scans whose pixels say where they are: slice, row, column; what is beyond their sides is -1."""
    slices = torch.full((2 * SLICES, 3, 20, 30), -1.0)
    for i, (height, width) in enumerate(SIDES):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        for k in range(SLICES):
            slices[i * SLICES + k, :, :height, :width] = torch.stack([torch.full_like(rows, k), rows, columns]).float()
    sides = torch.tensor(SIDES).repeat_interleave(SLICES, dim=0)
    return SliceStore(slices.half(), (), (), patches=Patches(SIZE, sides))


def corner(patch):
    """Slice, row and column of the first pixel; the patch must be a whole window of the slice."""
    assert (patch >= 0).all()
    assert torch.equal(patch[1] - patch[1, 0, 0], torch.arange(SIZE)[:, None].expand(SIZE, SIZE).float())
    assert torch.equal(patch[2] - patch[2, 0, 0], torch.arange(SIZE)[None].expand(SIZE, SIZE).float())
    return [int(value) for value in patch[:, 0, 0]]


def test_companions_show_the_same_place_as_their_anchor_and_every_place_is_shown():
    extents = [Extent(0, SLICES, 1.0, 0), Extent(SLICES, SLICES, 1.0, 1)]
    plan = Plan(extents, [{"task": {"next": [2]}}] * 2)
    load = Loader(numbered(), Sampler(plan, 12, seed=0), torch.device("cpu"))
    corners = set()
    for index in range(40):
        torch.manual_seed(index)
        batch = load(index)
        next_one = batch.companions["task"]["next"]
        for anchor, companion in zip(next_one.of(batch.anchor), next_one.image, strict=True):
            (k, *place), (other, *other_place) = corner(anchor), corner(companion)
            assert (other, other_place) == (k + 2, place)
            corners.add(tuple(place))
    assert corners == {(y, x) for y in range(5) for x in range(9)} | {(0, x) for x in range(15)}


def test_labels_show_the_same_place_as_their_image_and_one_in_three_has_a_class_in_its_middle():
    store = numbered()
    targets = torch.zeros(2 * SLICES, 20, 30, dtype=torch.uint8)
    targets[:, 2, 23] = 1  # in a corner of the first scan
    targets[SLICES:] = 0
    number = torch.full((2 * SLICES, 20, 30), 255, dtype=torch.uint8)
    number[:, :20, :30] = (torch.arange(20)[:, None] * 7 + torch.arange(30)).to(torch.uint8)
    torch.manual_seed(0)
    image, shown = Examples(store, np.arange(2 * SLICES), number).batch(np.arange(2 * SLICES), torch.device("cpu"))
    for patch, label in zip(image, shown, strict=True):
        _, y, x = corner(patch)
        assert torch.equal(label, number[0, y : y + SIZE, x : x + SIZE].long())
    rows = np.tile(np.arange(SLICES), 60)
    _, shown = Examples(store, rows, targets).batch(rows, torch.device("cpu"))
    share = float((shown == 1).any(dim=2).any(dim=1).float().mean())
    by_chance = 3 / 5 / 9  # of 5 x 9 places, 3 x 1 show it
    assert share == pytest.approx(1 / 3 + 2 / 3 * by_chance, abs=0.06)


def test_without_a_place_it_is_the_patch_in_the_middle():
    store = numbered()
    patch = store.gather(torch.tensor([0, SLICES]), torch.device("cpu"))
    assert [corner(one)[1:] for one in patch] == [[2, 4], [0, 7]]
    assert np.array_equal(middle(store.slices[0, :, :20, :24].numpy(), SIZE), patch[0].numpy())


@settings(max_examples=60)
@given(st.integers(8, 70), st.integers(8, 70), st.integers(8, 40))
def test_windows_cover_every_pixel_and_an_identity_network_gives_the_slice_back(height, width, size):
    image = torch.randn(2, 3, max(height, size), max(width, size))
    seen = []

    def network(part):
        assert part.shape[2:] == (size, size)
        seen.append(part)
        return part

    assert torch.allclose(covered(image, size, network), image, atol=1e-5)
    least = np.prod([1 if n == size else 2 * n / size - 1.01 for n in image.shape[2:]])
    assert len(seen) >= np.floor(least)  # neighbours overlap by half


def test_where_windows_contradict_the_nearer_middle_counts_more():
    values = iter([0.0, 1.0])
    blended = covered(torch.zeros(1, 1, 16, 24), 16, lambda part: torch.full_like(part, next(values)))[0, 0, 8]
    assert (blended.diff() >= 0).all()
    assert blended[:8].max() < 1e-2
    assert blended[11:13].mean() == pytest.approx(0.5, abs=1e-5)


def write(root, name, shape, seed):
    """A scan of this many rows and columns: a ball somewhere in a large slice."""
    image, label = ball(6, seed)
    for folder, array, fill in (("images", image, 0), ("labels", label, 0)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        large = np.full((*shape, 6), fill, array.dtype)
        large[: min(32, shape[0]), : min(32, shape[1])] = array[: shape[0], : shape[1]]
        nib.save(nib.Nifti1Image(large, np.diag([-0.8, -0.8, 2.0, 1.0])), root / folder / f"{name}.nii.gz")


@pytest.mark.slow
def test_scans_of_any_size_are_trained_on_and_predicted_whole(ssmtl, tmp_path):
    shapes = {"a": (50, 44), "b": (40, 70), "c": (32, 32), "d": (45, 20)}
    for seed, (name, shape) in enumerate(shapes.items()):
        write(tmp_path / "data", name, shape, seed)
    words = ("--data", "data", "--size", "32", "--prepare", "fit=patch", "--backbone", SMALL)
    run = ssmtl("run", *words, "--steps", "3", "--task", "reconstruct_next:t=1", "--held-out", "1", "--out", "run")
    assert run.returncode == 0, run.stderr
    for head, classes in (("segmentation", ["--classes", "big=10,small=20"]), ("denoising", [])):
        tune = ("finetune", "--from", "run", "--data", "data", "--head", head, *classes, "--steps", "4", "--out", head)
        tuned = ssmtl(*tune, "--test-scans", "2", "--no-surface")
        assert tuned.returncode == 0, tuned.stderr
        done = ssmtl("predict", "--from", head, "data/images", "--out", f"{head}_out")
        assert done.returncode == 0, done.stderr
        for name, shape in shapes.items():
            assert nib.load(tmp_path / f"{head}_out" / f"{name}.nii.gz").shape == (*shape, 6)
    packed = ssmtl("run", *words, "--steps", "2", "--task", "reconstruct_next:t=1", "--store", "disk", "--out", "disk")
    assert packed.returncode == 0, packed.stderr
    late = ssmtl("run", *words, "--prepare", "crop:margin=0", "--steps", "2", "--out", "late")
    assert late.returncode == 3
    assert "put fit=patch last" in late.stderr
