"""Weights to start from: earlier runs, fine-tuned models, and files of others."""

import hashlib
import json
import pickle

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.small import SMALL
from ssmtl_toolkit import DataError, SsmtlError, UsageError, load_backbone, pretrain
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.external import fitted_channels
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import BackboneSpec

RESNET = "unet:encoder=resnet18"


def build(text, channels=1):
    torch.manual_seed(1)
    return registry().resolve(BackboneSpec, text).build(channels)


@pytest.fixture(scope="module")
def colours():
    """A whole network of smp on three colours, as somebody has trained it."""
    torch.manual_seed(0)
    return smp.Unet("resnet18", encoder_weights=None, in_channels=3, classes=2).state_dict()


def encoder_of(network):
    return {name.removeprefix("encoder."): t for name, t in network.items() if name.startswith("encoder.")}


def saved(tensors, file):
    save_file(tensors, file) if file.suffix == ".safetensors" else torch.save(tensors, file)
    return file


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("moco.pth.tar", lambda e: {"epoch": 3, "state_dict": {f"module.encoder_q.{n}": t for n, t in e.items()}}),
        ("plain.pth", lambda e: {**e, "fc.weight": torch.zeros(10, 512)}),
        ("lightning.ckpt", lambda e: {"state_dict": {f"net.backbone.{n}": t for n, t in e.items()}}),
        ("timm.safetensors", lambda e: e),
    ],
)
def test_an_encoder_of_others_is_found_whatever_stands_before_its_names(tmp_path, colours, name, wrap):
    encoder, backbone = encoder_of(colours), build(RESNET)
    report = Pretrained.open(saved(wrap(encoder), tmp_path / name)).load_into(backbone)
    assert report.share["encoder"] == 1.0
    assert report.share["decoder"] == 0.0
    loaded = backbone.encoder.state_dict()
    assert torch.equal(loaded["layer4.1.conv2.weight"], encoder["layer4.1.conv2.weight"])
    assert torch.allclose(loaded["conv1.weight"], encoder["conv1.weight"].sum(dim=1, keepdim=True))
    assert any("fitted to the channels" in line for line in report.lines())


def test_of_a_whole_network_encoder_and_decoder_are_loaded(tmp_path, colours):
    file = saved({f"model.{name}": tensor for name, tensor in colours.items()}, tmp_path / "whole.pth")
    backbone = build(RESNET, 3)
    report = Pretrained.open(file).load_into(backbone, min_transfer=1.0)
    assert report.prefixes == {"encoder": "model.encoder.", "decoder": "model.decoder."}
    assert all(torch.equal(tensor, colours[name]) for name, tensor in backbone.state_dict().items())
    assert [name for name in report.skipped if "segmentation_head" not in name] == []


def test_a_network_that_is_only_similar_is_called_another_one(tmp_path, colours):
    encoder = {**encoder_of(colours), "layer2.0.downsample.0.bias": torch.zeros(128)}
    report = Pretrained.open(saved(encoder, tmp_path / "monai.pth")).load_into(build(RESNET))
    assert report.odd == ["layer2.0.downsample.0.bias"]
    assert any("ANOTHER NETWORK was trained" in line for line in report.lines())


def test_of_two_copies_the_prefix_chooses(tmp_path, colours):
    encoder = encoder_of(colours)
    both = {f"q.{n}": t for n, t in encoder.items()} | {f"k.{n}": t + 1 for n, t in encoder.items()}
    file = saved(both, tmp_path / "two.pth")
    for prefix, added in ((None, 0), ("k.", 1)):
        backbone = build(RESNET, 3)
        Pretrained.open(file, prefix=prefix).load_into(backbone)
        assert torch.equal(backbone.encoder.state_dict()["conv1.weight"], encoder["conv1.weight"] + added)


def test_a_first_convolution_on_colours_gives_the_same_for_equal_channels():
    weight, image = torch.randn(4, 3, 3, 3), torch.randn(2, 1, 8, 8)
    grey = torch.nn.functional.conv2d(image.expand(-1, 3, -1, -1), weight)
    for channels in (1, 2, 4, 6):
        ours = torch.nn.functional.conv2d(image.expand(-1, channels, -1, -1), fitted_channels(weight, channels))
        if channels in (1, 6):
            assert torch.allclose(ours, grey, atol=1e-4)
        assert fitted_channels(weight, channels).shape[1] == channels


def test_what_has_nothing_of_the_backbone_is_refused_whatever_the_minimum(tmp_path, colours):
    file = saved({f"other.{i}": tensor for i, tensor in enumerate(colours.values())}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"other.pth: 0 % can be loaded.*--prefix"):
        Pretrained.open(file).load_into(build(RESNET), min_transfer=0.0)


class Payload:
    def __reduce__(self):
        return (print, ("run by the file",))


def test_a_file_that_could_run_code_is_refused_and_runs_none(tmp_path, capfd):
    for name, content in (("a.pth", Payload()), ("b.pth", {"epoch": 3})):
        torch.save(content, tmp_path / name)
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "d.pth").write_bytes(b"no weights")
    for name, words in (("a", "more than tensors"), ("b", "no table"), ("c", "c.pth: "), ("d", "d.pth: ")):
        with pytest.raises(DataError, match=words):
            Pretrained.open(tmp_path / f"{name}.pth")
    assert "run by the file" not in capfd.readouterr().out


DAMAGED = ("", "[]", "null", "7", "{}", '{"seen": 7}', "\0" * 9, "[" * 100_000, f'"{" " * 40_000_000}"')


def about(file):
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["ssmtl"])


def test_a_run_continues_from_an_earlier_one_on_other_scans_and_tasks(ssmtl, pretrained, scans, tmp_path):
    done = ssmtl("run", "--from", pretrained, "--data", scans, "--task", "slice_siam:t=1", "--steps", 1, "--out", "b")
    assert done.returncode == 0, done.stderr
    assert "parameters loaded: encoder 100 %" in done.stderr
    assert "slices    size 32: as for those weights" in done.stderr
    before, after = about(pretrained / "backbone.safetensors"), about(tmp_path / "b" / "backbone.safetensors")
    assert (after["prepare"]["size"], after["backbone"]) == (32, before["backbone"])
    assert set(after["scans"]["digests"]) > set(before["scans"]["digests"])
    assert after["scans"]["number"] == 4
    moved = load_file(tmp_path / "b" / "backbone.safetensors")
    kept = {name for name, tensor in load_file(pretrained / "backbone.safetensors").items() if name.startswith("dec")}
    assert kept
    assert all(torch.equal(load_backbone(pretrained).backbone.state_dict()[name], moved[name]) for name in kept)
    again = ssmtl("run", "--resume", "b", "--steps", 2)
    assert again.returncode == 0, again.stderr
    assert set(about(tmp_path / "b" / "backbone.safetensors")["scans"]["digests"]) > set(before["scans"]["digests"])


def test_whatever_becomes_of_transfer_json_a_resumed_run_knows_what_the_weights_before_it_had_seen(
    ssmtl, pretrained, scans, tmp_path
):
    run = ("--data", scans, "--task", "slice_siam:t=1", "--steps", 1, "--out", "b")
    assert ssmtl("run", "--from", pretrained, *run).returncode == 0
    file, backbone, summary = (
        tmp_path / "b" / name for name in ("transfer.json", "backbone.safetensors", "summary.json")
    )
    whole, seen = file.read_text(), about(backbone)["scans"]["digests"]
    expected = json.loads(summary.read_text())["tasks"]
    for text in (*DAMAGED, whole[: len(whole) // 2], whole.replace('"seen": [', '"seen": ["0"], "more": [')):
        file.write_text(text)
        backbone.unlink()
        done = ssmtl("run", "--resume", "b")
        assert done.returncode == 0, done.stderr
        assert "b/transfer.json: is damaged or missing; it is written again" in done.stderr
        assert (file.read_text(), about(backbone)["scans"]["digests"]) == (whole, seen)
    assert json.loads(summary.read_text())["tasks"] == expected
    file.unlink()
    file.mkdir()
    done = ssmtl("run", "--resume", "b")
    assert done.returncode == 1
    assert "b/transfer.json: cannot be written" in done.stderr


def test_a_checkpoint_of_an_older_version_needs_transfer_json(ssmtl, pretrained, scans, tmp_path):
    run = ("--data", scans, "--task", "slice_siam:t=1", "--steps", 1, "--out", "b")
    assert ssmtl("run", "--from", pretrained, *run).returncode == 0
    file, backbone = tmp_path / "b" / "transfer.json", tmp_path / "b" / "backbone.safetensors"
    whole, seen = file.read_text(), about(backbone)["scans"]["digests"]
    manifest = tmp_path / "b" / "checkpoints" / "step-00000001" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["digest"], content["transfer"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps({**content, "digest": digest}))
    for text in (*DAMAGED, whole.replace('"seen": [', '"seen": [1, ')):
        file.write_text(text)
        done = ssmtl("run", "--resume", "b")
        assert done.returncode == 3
        assert "b/transfer.json: is damaged or missing, and says which scans the weights had seen" in done.stderr
    file.write_text(whole)
    backbone.unlink()
    assert ssmtl("run", "--resume", "b").returncode == 0
    assert about(backbone)["scans"]["digests"] == seen


def test_a_run_starts_from_a_file_of_others(scans, colours, tmp_path):
    file = saved(encoder_of(colours), tmp_path / "imagenet.pth")
    options = {"data": str(scans), "tasks": ["reconstruct_next:t=1"], "steps": 1, "size": 32, "cache": tmp_path / "c"}
    with pytest.raises(UsageError, match="give --backbone"):
        pretrain(source=file, out=tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()
    run = pretrain(source=file, backbone=RESNET, lr=1e-12, out=tmp_path / "b", **options)
    loaded = load_file(run.backbone)["encoder.layer3.0.conv1.weight"]
    assert torch.allclose(loaded, colours["encoder.layer3.0.conv1.weight"], atol=1e-6)


def test_weights_that_do_not_fit_are_refused_before_scans_are_read(ssmtl, pretrained, scans, tmp_path):
    done = ssmtl("run", "--from", pretrained, "--backbone", RESNET, "--data", scans, "--out", "b")
    assert done.returncode == 2
    assert "only 0 % of the parameters of the encoder can be loaded" in done.stderr
    assert "held out" not in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_fine_tuned_model_is_trained_on_with_its_head(ssmtl, tuned, labelled):
    options = ["--classes", "big=10,small=20", "--recipe", "paper", "--steps", 1, "--test-scans", 4, "--no-surface"]
    done = ssmtl("finetune", "--from", tuned / "pretrained-0", "--data", labelled, *options, "--out", "more")
    assert done.returncode == 0, done.stderr
    assert "encoder 100 %, decoder 100 %" in done.stderr
    assert "head: loaded too" in done.stderr
    assert "are not recorded" not in done.stderr
    several = ssmtl("finetune", "--from", tuned, "--data", labelled, *options, "--out", "more2")
    assert several.returncode == 2
    assert "holds 4 fine-tuned models; give one" in several.stderr


def test_the_hub_without_a_network_is_named_and_a_wrong_address_too(tmp_path):
    with pytest.raises(SsmtlError, match=r"hf://user/nothing-here: the Hugging Face hub cannot be reached"):
        load_backbone("hf://user/nothing-here")
    with pytest.raises(UsageError, match="names no repository"):
        load_backbone("hf://a/b/c/d")


def test_a_prefix_is_for_files_of_others(pretrained):
    with pytest.raises(UsageError, match="was written by ssmtl_toolkit; omit it"):
        Pretrained.open(pretrained, prefix="x.")
    with pytest.raises(UsageError, match="give them with --from"):
        pretrain(backbone=SMALL, prefix="x.", out="nowhere")
