"""Trained weights as torch modules: `load_backbone` and `load_model`, and what they make of plain arrays."""

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from helpers.small import SMALL, blobs, write_pair
from ssmtl_toolkit import DataError, UsageError, finetune, load_backbone, load_model, predict, pretrain
from ssmtl_toolkit.data.volume import Stack, on_axis
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import BackboneSpec


def slices_of(file, axis):
    return Stack.of(installed_readers().read(file), axis)


@pytest.fixture
def scan(labelled):
    return labelled / "images" / "e_post.nii.gz"


def predicted(tuned, scan, folder):
    return np.asanyarray(nib.load(predict(tuned, scan, out=folder, cache=folder / "cache").written[0]).dataobj)


@pytest.mark.parametrize("which", ["", "pretrained-1"])
def test_a_loaded_model_predicts_arrays_as_predict_does_files(tuned, scan, tmp_path, which):
    model = load_model(tuned / which)
    stack = slices_of(scan, model.axis)
    labels = model.predict_slices(stack.slices[:, 0], stack.spacing)
    assert isinstance(model, nn.Module)
    assert len(model.models) == (1 if which else 2)
    assert {0, 10} <= {*np.unique(labels).tolist()} <= {0, 10, 20}
    assert np.array_equal(stack.back(labels), predicted(tuned / which, scan, tmp_path / "out"))
    chances = model.predict_slices(stack.slices, stack.spacing, probabilities=True)
    assert np.array_equal(np.array([0, 10, 20])[chances.argmax(axis=-1)], labels)


def test_a_loaded_model_trains_on_and_stays_in_its_mode(tuned, scan):
    model = load_model(tuned / "pretrained-0")
    images = model.prepare_slices(slices_of(scan, model.axis).slices)
    assert images.shape[1:] == (1, 32, 32)
    model.train()
    model.predict_slices(np.random.default_rng(0).normal(size=(2, 30, 20)))
    assert model.training
    model(images).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("text", [SMALL, "fcn:encoder=resnet18,channels=8"])
def test_every_backbone_loads_as_a_module_with_the_weights_of_its_file(text, scans, tmp_path):
    options = {"backbone": text, "size": 32, "steps": 1, "tasks": ["reconstruct_next:t=1"], "cache": tmp_path / "cache"}
    run = pretrain(data=str(scans), out=tmp_path / "run", **options)
    backbone = load_backbone(run)
    features = backbone.predict_slices(blobs(5).transpose(2, 0, 1))
    assert features.shape == (5, backbone.backbone.pooled_channels)
    assert backbone(torch.randn(2, 1, 32, 32)).shape == (2, backbone.backbone.dense_channels, 32, 32)
    assert backbone.predict_slices(blobs(5).transpose(2, 0, 1), feature="dense").shape[2:] == (32, 32)
    other = load_backbone(run.backbone)
    assert all(
        torch.equal(a, b) for a, b in zip(backbone.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_slices_on_an_axis_are_a_volume_that_is_cut_into_the_same_slices(axis):
    slices = np.arange(24).reshape(4, 3, 2)
    stack = Stack.of(on_axis(slices, axis, (3.0, 2.0, 1.0)), "acquisition")
    assert (stack.axis, stack.spacing) == (axis, (3.0, 2.0, 1.0))
    assert np.array_equal(stack.slices[:, 0], slices)


@pytest.mark.parametrize(
    ("slices", "problem"),
    [
        (np.zeros((4, 4)), "shape (S, H, W)"),
        (np.full((2, 8, 8), np.nan), "NaN or infinite"),
        (np.array([["a"]]), "expected numbers"),
        (np.random.default_rng(0).normal(size=(3, 2, 8, 8)), "2 channels"),
        (np.zeros((3, 8, 8)), "is blank"),
    ],
)
def test_arrays_that_are_no_slices_are_refused(tuned, slices, problem):
    with pytest.raises((UsageError, DataError)) as error:
        load_model(tuned / "pretrained-0").predict_slices(slices)
    assert problem in str(error.value)


def test_what_is_no_model_is_refused_by_name(pretrained, tuned):
    with pytest.raises(UsageError, match="holds no fine-tuned model"):
        load_model(pretrained)
    with pytest.raises(UsageError, match="expected pooled or dense, got 'logits'"):
        load_backbone(pretrained).predict_slices(np.zeros((1, 4, 4)), feature="logits")
    with pytest.raises(UsageError, match="spec: expected the class"):
        load_model(tuned, spec="unet")


class Tiny(BackboneSpec):
    """A class that no plugin registers, as one in a notebook."""

    name = "tiny_of_a_notebook"

    def build(self, in_channels):
        encoder = nn.Sequential(nn.Conv2d(in_channels, 4, 3, stride=2, padding=1), nn.ReLU())
        return Backbone(Maps(encoder), Last(), in_channels, 4, 4)


class Maps(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, image):
        return [self.inner(image)]


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolve = nn.Conv2d(4, 4, 1)

    def forward(self, maps):
        return self.convolve(maps[-1])


def test_a_backbone_of_a_notebook_is_loaded_and_predicted_with_by_its_class(tmp_path):
    for i in range(3):
        write_pair(tmp_path / "data", f"p{i}", slices=5, seed=i)
    common = {"data": str(tmp_path / "data"), "size": 16, "steps": 1, "cache": tmp_path / "cache"}
    run = pretrain(backbone=Tiny(), tasks=["reconstruct_next:t=1"], out=tmp_path / "run", **common)
    with pytest.raises(UsageError, match=r"needs the backbone 'tiny_of_a_notebook' .*give the class: spec="):
        load_backbone(run)
    assert load_backbone(run, spec=Tiny).backbone.pooled_channels == 4
    tuned = finetune(
        run, backbone=Tiny(), test_scans=1, classes="a=10,b=20", recipe="paper", out=tmp_path / "ft", **common
    )
    scan = tmp_path / "data" / "images" / "p0.nii.gz"
    with pytest.raises(UsageError, match="give the class"):
        predict(tuned, scan, out=tmp_path / "out")
    assert len(predict(tuned, scan, out=tmp_path / "out", cache=tmp_path / "cache", spec=[Tiny]).written) == 1
    assert load_model(tuned, spec=Tiny).predict_slices(blobs(4).transpose(2, 0, 1)).shape == (4, 24, 20)


@pytest.mark.parametrize("load", [load_backbone, load_model])
@pytest.mark.parametrize("source", [None, 3, ""])
def test_what_is_no_path_is_refused_in_words(load, source):
    with pytest.raises(UsageError, match="give a run folder or a file of weights"):
        load(source)
