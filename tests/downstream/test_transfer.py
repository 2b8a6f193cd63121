"""Loading pre-trained weights: what the report says, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.small import SMALL, write_pair
from ssmtl_toolkit import DataError, SsmtlError, UsageError, pretrain
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.fingerprint import fingerprint
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import BackboneSpec


def build(text=SMALL):
    return registry().resolve(BackboneSpec, text).build(1)


def rewritten(pretrained, tmp_path, change=lambda tensors: tensors, about=lambda about: about):
    """A copy of the run's backbone file with other tensors or metadata."""
    source = pretrained / "backbone.safetensors"
    with safe_open(source, "pt") as file:
        said = json.loads(file.metadata()["ssmtl"])
    target = tmp_path / "changed.safetensors"
    weights.write(target, change(load_file(source)), about(said))
    return target


def test_all_of_encoder_and_decoder_is_loaded_and_the_network_computes_the_same(pretrained):
    backbone = build()
    report = Pretrained.open(pretrained).load_into(backbone)
    saved = load_file(pretrained / "backbone.safetensors")
    assert report.loaded == len(saved) == len(backbone.state_dict())
    assert all(torch.equal(backbone.state_dict()[name], tensor) for name, tensor in saved.items())
    assert report.share == {"encoder": 1, "decoder": 1, "both": 1}
    assert report.fingerprint is not None
    assert report.fingerprint < 1e-6
    assert (report.missing, report.mismatched, report.skipped, report.fresh) == (
        [],
        [],
        [],
        [],
    )
    assert report.pretraining["tasks"] == [
        "reconstruct_prev:t=1,weight=1.0",
        "reconstruct_next:t=1,weight=1.0",
    ] or (len(report.pretraining["tasks"]) == 2)
    json.dumps(report.to_json())


def test_weights_that_do_not_compute_what_the_run_computed_are_refused(pretrained, tmp_path):
    def change(tensors):
        name = next(name for name in tensors if name.startswith("decoder.") and name.endswith("weight"))
        return {**tensors, name: tensors[name] * 1.1}

    with pytest.raises(SsmtlError, match=r"output differs from the saved run's own by"):
        Pretrained.open(rewritten(pretrained, tmp_path, change)).load_into(build())


def test_another_network_is_refused_with_shapes_and_what_to_do(pretrained):
    with pytest.raises(UsageError, match=r"of the encoder can be loaded.*\(4, 1, 3, 3\).*omit --backbone"):
        Pretrained.open(pretrained).load_into(build("unet:encoder=plain,width=4"))


def test_a_lower_min_transfer_loads_what_fits_and_the_receipt_counts_it(pretrained):
    backbone = build("unet:encoder=plain,width=4")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    report = Pretrained.open(pretrained).load_into(backbone, min_transfer=0.0)
    saved = load_file(pretrained / "backbone.safetensors")
    same = [name for name in before if name in saved and saved[name].shape == before[name].shape]
    assert report.loaded == len(same)
    assert len(report.mismatched) == len(saved) - len(same)
    sizes = {name: p.numel() for name, p in backbone.named_parameters()}
    assert report.share["both"] == pytest.approx(sum(n for k, n in sizes.items() if k in same) / sum(sizes.values()))
    assert report.fingerprint is None
    assert report.unchecked == "not everything could be loaded"
    for name in set(before) - set(same):
        assert torch.equal(backbone.state_dict()[name], before[name])


def test_missing_tensors_are_named_and_min_transfer_bounds_the_share_of_all(pretrained, tmp_path):
    file = rewritten(pretrained, tmp_path, lambda t: {k: v for k, v in t.items() if k.startswith("encoder.")})
    with pytest.raises(UsageError, match=r"at least 99 % of the backbone is required \(decoder\.\S+ is missing"):
        Pretrained.open(file).load_into(build(), min_transfer=0.99)
    report = Pretrained.open(file).load_into(build())  # all of the encoder is there
    assert report.share["decoder"] == 0
    assert report.missing
    assert all(name.startswith("decoder.") for name in report.missing)
    assert any("are not in the file" in line for line in report.lines())


def test_a_decoder_that_was_not_trained_starts_fresh(labelled, tmp_path):
    run = pretrain(data=str(labelled), backbone=SMALL, size=32, steps=2, tasks=["moco_v2:queue=8"], out=tmp_path / "r")
    backbone = build()
    before = {name: tensor.clone() for name, tensor in backbone.decoder.state_dict().items()}
    report = Pretrained.open(run.folder).load_into(backbone)
    assert report.fresh == ["decoder"]
    assert report.share["encoder"] == 1
    assert report.fingerprint is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.decoder.state_dict().items())
    assert any("decoder: not trained by that run, starts fresh" in line for line in report.lines())


def test_weights_without_metadata_need_the_backbone_to_be_named_and_are_loaded(pretrained, tmp_path):
    save_file(load_file(pretrained / "backbone.safetensors"), tmp_path / "plain.safetensors")
    found = Pretrained.open(tmp_path / "plain.safetensors")
    assert found.spec() is None
    report = found.load_into(build())
    assert report.share["both"] == 1
    assert report.unchecked == "the file holds no fingerprint"


def test_what_holds_no_backbone_is_refused(pretrained, tuned, tmp_path):
    with pytest.raises(UsageError, match=r"no such file or folder"):
        Pretrained.open(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"holds no pre-trained backbone"):
        Pretrained.open(tmp_path)
    (tmp_path / "backbone.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match=r"cannot be read as safetensors"):
        Pretrained.open(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"other.safetensors: 0 % can be loaded: no tensor fits the backbone"):
        Pretrained.open(tmp_path / "other.safetensors").load_into(build())
    with pytest.raises(UsageError, match=r"holds 4 fine-tuned models; give one, such as .*pretrained-0"):
        Pretrained.open(tuned)


def test_a_probe_does_not_change_the_network_nor_the_random_numbers(pretrained):
    backbone = build().train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    torch.manual_seed(3)
    first = fingerprint(backbone, 32)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert fingerprint(backbone, 32) == first


def test_for_tells_before_training_what_the_head_will_miss(ssmtl, labelled):
    options = ["--data", labelled, "--backbone", SMALL, "--size", 32, "--steps", 1]
    done = ssmtl("run", *options, "--task", "moco_v2:queue=8", "--for", "segmentation", "--out", "r")
    assert done.returncode == 0, done.stderr
    assert "no task trains the decoder" in done.stderr
    done = ssmtl("run", *options, "--task", "reconstruct_next:t=1", "--for", "segmentaton", "--out", "q")
    assert done.returncode == 2
    assert "did you mean 'segmentation'?" in done.stderr
    done = ssmtl("run", *options, "--task", "reconstruct_next:t=1", "--for", "denoising", "--out", "q")
    assert done.returncode == 0, done.stderr
    assert "decoder" not in done.stderr


def test_transfer_encoder_leaves_a_decoder_that_was_trained_as_it_starts_and_checks_the_encoder(pretrained):
    backbone = build()
    before = {name: tensor.clone() for name, tensor in backbone.decoder.state_dict().items()}
    report = Pretrained.open(pretrained).limited("encoder").load_into(backbone)
    assert report.unwanted == ["decoder"]
    assert (report.share["encoder"], report.share["decoder"]) == (1.0, 0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.decoder.state_dict().items())
    assert report.fingerprint == pytest.approx(0.0, abs=1e-5)
    assert any("decoder: not loaded, by --transfer, starts fresh" in line for line in report.lines())


def test_a_fine_tuning_on_scans_unlike_those_of_the_pretraining_says_so(pretrained, ssmtl, tmp_path):
    for i in range(3):
        write_pair(tmp_path / "thin", f"p{i}", seed=i, affine=np.diag([-0.8, -0.8, 0.5, 1.0]))
    few = ("--train-scans", 1, "--test-scans", 1, "--steps", 1, "--no-surface")
    done = ssmtl("finetune", "--from", pretrained, "--data", tmp_path / "thin", *few, "--out", "run")
    assert "its slices are 0.5 mm apart, those of the training 2 mm" in done.stderr


@pytest.mark.parametrize(
    ("within", "seen"),
    [
        ({"scans": {"digests": ["a"]}, "unlabelled": {"digests": ["b"]}}, {"a", "b"}),
        ({"head": {}, "unlabelled": {"digests": ["a"]}, "pretraining": {"scans": {"digests": ["b"]}}}, {"a", "b"}),
        ({"scans": 5}, set()),
        ({"scans": {"digests": [["a"], "b"]}}, {"b"}),
        ({"scans": {"digests": "ab"}, "probe": ["c"]}, set()),
        ({"head": {}, "pretraining": "x"}, set()),
        (None, set()),
    ],
)
def test_what_lies_within_the_metadata_of_a_model_is_read_whatever_it_is(within, seen, tmp_path):
    model = Pretrained(tmp_path / "model.safetensors", {}, {"head": {}, "pretraining": within})
    assert model.scans == seen
    assert model.probed == frozenset()
