"""nnU-Net's networks as backbones: their plans, and their weights back in nnU-Net's names."""

import json
from importlib.util import find_spec

import pytest
import torch

from ssmtl_nnunet import NnUnet
from ssmtl_toolkit import UsageError, export, load_backbone, pretrain
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec

installed = pytest.mark.skipif(
    find_spec("dynamic_network_architectures") is None, reason="the extra nnunet is not installed"
)


def resolve(text):
    return registry().resolve(BackboneSpec, text)


def plans(folder, **changes):
    """What nnU-Net plans for slices of 40 x 56 pixels."""
    options = {
        "n_stages": 4,
        "features_per_stage": [32, 64, 128, 256],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * 4,
        "strides": [[1, 1], [2, 2], [2, 2], [1, 2]],
        "n_conv_per_stage": [2, 2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2, 2],
        **changes,
    }
    name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    content = {"configurations": {"2d": {"architecture": {"network_class_name": name, "arch_kwargs": options}}}}
    (folder / "nnUNetPlans.json").write_text(json.dumps(content))
    return folder / "nnUNetPlans.json"


def test_a_network_is_what_nnunet_plans_for_a_size_or_has_planned(tmp_path):
    assert str(resolve("nnunet:size=256")) == "nnunet:features=32+64+128+256+512+512+512,strides=1+2+2+2+2+2+2," + (
        "kernels=3+3+3+3+3+3+3,blocks=2+2+2+2+2+2+2,decoder=2+2+2+2+2+2"
    )
    spec = resolve(f"nnunet:plans={plans(tmp_path)}")
    assert (spec.features, spec.strides, spec.decoder) == ("32+64+128+256", "1+2+2+1x2", "2+2+2")
    assert str(tmp_path) not in spec.full()


def test_plans_that_cannot_be_used_are_refused_by_name(tmp_path):
    (tmp_path / "volumes").mkdir()
    volumes = plans(tmp_path / "volumes", conv_op="torch.nn.modules.conv.Conv3d")
    for text, words in (
        (f"nnunet:plans={tmp_path / 'no.json'}", "no.json: cannot be read as nnU-Net's plans"),
        (f"nnunet:plans={plans(tmp_path)},configuration=3d", "has no configuration '3d' with a network; it has 2d"),
        (f"nnunet:plans={volumes}", "a U-Net of nnU-Net in 2-D"),
        (f"nnunet:plans={plans(tmp_path)},size=64", "give one"),
        ("nnunet:features=8+16", "stages differ in number"),
        ("nnunet:size=4", "give at least 8 pixels"),
    ):
        with pytest.raises(UsageError) as error:
            resolve(text)
        assert words in str(error.value), text


def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("ssmtl_nnunet.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'ssmtl-toolkit\[nnunet\]'"):
        NnUnet().build(1)


@installed
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_encoder_and_decoder_go_back_to_nnunet_with_nothing_missing(kind, scans, tmp_path):
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    text = f"nnunet:kind_of={kind},features=4+8+8,strides=1+2+2,kernels=3+3+3,blocks=1+1+1,decoder=1+1"
    options = {"backbone": text, "size": 32, "steps": 2, "tasks": ["reconstruct_next:t=1"], "cache": tmp_path / "c"}
    run = pretrain(data=str(scans), out=tmp_path / "run", **options)
    assert export(run, "nnunet", out=tmp_path / "out").summary["difference"] < 1e-5
    given = torch.load(tmp_path / "out" / "nnunet.pth", weights_only=True)["network_weights"]
    cls, blocks = (PlainConvUNet, "n_conv_per_stage")
    if kind == "residual":
        cls, blocks = ResidualEncoderUNet, "n_blocks_per_stage"
    network = cls(
        1, 3, [4, 8, 8], torch.nn.Conv2d, 3, [1, 2, 2], num_classes=5, n_conv_per_stage_decoder=[1, 1], conv_bias=True,
        norm_op=torch.nn.InstanceNorm2d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=True, **{blocks: [1, 1, 1]},
    )  # fmt: skip
    own = {name: tensor for name, tensor in network.state_dict().items() if ".seg_layers." not in name}
    assert set(own) == set(given)
    assert all(given[name].shape == tensor.shape for name, tensor in own.items())
    images = torch.randn(2, 1, 32, 32)
    network.load_state_dict({**network.state_dict(), **given})
    assert torch.allclose(load_backbone(run).features(images).pyramid[-1], network.encoder(images)[-1], atol=1e-5)


def test_another_backbone_is_refused(pretrained, tmp_path):
    if find_spec("dynamic_network_architectures") is None:
        with pytest.raises(UsageError, match="needs dynamic_network_architectures"):
            export(pretrained, "nnunet", out=tmp_path / "out")
    else:
        with pytest.raises(UsageError, match="is not nnU-Net's network"):
            export(pretrained, "nnunet", out=tmp_path / "out")
