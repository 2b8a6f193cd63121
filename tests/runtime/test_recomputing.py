"""Activations that are computed again: less memory, the same numbers."""

import copy

import pytest
import torch
from safetensors.torch import load_file

import ssmtl_toolkit
from helpers.small import SMALL, write_pair
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.recomputing import recompute_blocks
from ssmtl_toolkit.specs import BackboneSpec

NETWORKS = (
    "unet:encoder=plain,width=8",
    "unet:encoder=resnet18",
    "smp:arch=deeplabv3plus,encoder=resnet18",  # dropout
    "unet:encoder=tu-convnext_atto",
)


def built(text):
    torch.manual_seed(0)
    return registry().resolve(BackboneSpec, text).build(1).train()


def pass_through(backbone, image):
    """A pass forth, for two readers, and back; what is saved in between, in bytes."""
    saved, seen = 0, set()

    def pack(tensor):
        nonlocal saved
        storage = tensor.untyped_storage()
        saved += 0 if storage.data_ptr() in seen else storage.nbytes()
        seen.add(storage.data_ptr())
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = backbone(image)
        losses = [features.pooled.square().mean(), *([features.dense.abs().mean()] if backbone.dense_channels else [])]
    losses[0].backward(retain_graph=True)  # as gradient balancers do, one by one
    losses[-1].backward()
    return saved


@pytest.mark.parametrize("text", NETWORKS)
def test_gradients_statistics_and_draws_are_the_same_to_the_bit(text):
    plain = built(text)
    again = copy.deepcopy(plain)
    assert recompute_blocks(again) >= 4
    again = copy.deepcopy(again)  # a copy computes by its own weights
    assert list(again.state_dict()) == list(plain.state_dict())
    image = torch.randn(2, 1, 64, 64)
    kept = pass_through(plain, image)
    drawn = torch.get_rng_state()
    assert pass_through(again, image) < 0.5 * kept
    assert torch.equal(torch.get_rng_state(), drawn)
    for (name, ours), theirs in zip(again.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(again.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for i in range(3):
        write_pair(folder, f"scan{i}", slices=8, seed=i)
    return folder


def test_a_run_and_a_fine_tuning_end_with_the_same_weights(scans, tmp_path):
    def trained(name, **options):
        options |= {"data": str(scans), "cache": tmp_path / "cache", "batch_size": 4, "steps": 3}
        tasks, balancer = ["reconstruct_prev:t=1", "slice_siam:t=1", "moco_v2:queue=8"], "pcgrad"
        run = ssmtl_toolkit.pretrain(
            **options, backbone=SMALL, size=32, tasks=tasks, balancer=balancer, accumulate=2, out=tmp_path / name
        )
        options |= {"train_scans": 1, "test_scans": 1, "seeds": 1, "recipe": "paper", "baseline": "none"}
        tuned = ssmtl_toolkit.finetune(run.folder, **options, out=tmp_path / f"{name}-tuned")
        return [
            load_file(file) for folder in (run.folder, tuned.folder) for file in sorted(folder.rglob("*.safetensors"))
        ]

    plain, again = trained("plain"), trained("again", checkpoint_activations=True)
    assert len(plain) == len(again) >= 3
    for ours, theirs in zip(again, plain, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_does_not_go_with_compile():
    with pytest.raises(UsageError, match="--checkpoint-activations"):
        RunConfig(compile=True, checkpoint_activations=True).resolve()
