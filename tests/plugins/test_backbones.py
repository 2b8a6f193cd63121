"""Networks: each gives what its spec says, computes no more than is read, and is exactly the library's own."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec

SMALL = [
    "unet:encoder=resnet18",
    "unet:encoder=plain,width=4",
    "unet:encoder=tu-resnet18",
    "fcn:encoder=resnet18",
    "fcn:encoder=resnet18,stride=32",
    "fcn:encoder=convnext_atto,channels=8",
    *(f"smp:{arch},encoder=resnet18" for arch in ("unetplusplus", "manet", "linknet", "fpn", "pspnet")),
    *(f"smp:{arch},encoder=resnet18" for arch in ("deeplabv3", "deeplabv3plus", "upernet", "segformer")),
]


def build(text):
    torch.manual_seed(0)
    return registry().resolve(BackboneSpec, text).build(1)


@pytest.mark.parametrize("text", SMALL)
def test_every_backbone_gives_features_of_the_shapes_it_says(text):
    backbone = build(text).eval()
    features = backbone(torch.randn(2, 1, 64, 64))
    assert features.dense.shape == (2, backbone.dense_channels, 64, 64)
    assert features.pooled.shape == (2, backbone.pooled_channels)
    assert torch.equal(features.pooled, features.pyramid[-1].mean(dim=(2, 3)))


@pytest.mark.parametrize("text", ["unet:encoder=resnet18", "unet:encoder=plain,width=4", "fcn:encoder=resnet18"])
@pytest.mark.parametrize("size", [48, 50, 33])
def test_the_main_backbones_take_any_image_size(text, size):
    assert build(text).eval()(torch.randn(1, 1, size, size)).dense.shape[2:] == (size, size)


def test_features_are_computed_when_read_and_only_once():
    backbone = build("unet:encoder=resnet18")
    calls = []
    backbone.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    backbone.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    features = backbone(torch.randn(2, 1, 32, 32))
    assert calls == []
    assert [features.pooled.shape, features.pooled.shape, features.pyramid[0].shape]
    assert calls == ["encoder"]
    assert features.dense is features.dense
    assert calls == ["encoder", "decoder"]


@pytest.mark.parametrize(("text", "encoder"), [("unet", "resnet34"), ("unet:encoder=tu-resnet18", "tu-resnet18")])
def test_the_weights_load_into_smp_unchanged_and_give_the_same_map(text, encoder):
    backbone = build(text).eval()
    unet = smp.Unet(encoder, encoder_weights=None, in_channels=1).eval()
    loaded = unet.load_state_dict(backbone.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert all(key.startswith("segmentation_head.") for key in loaded.missing_keys)
    image = torch.randn(2, 1, 64, 64)
    assert torch.equal(unet.decoder(unet.encoder(image)), backbone(image).dense)


def test_the_weights_of_the_fcn_encoder_load_into_timm_unchanged():
    backbone = build("fcn:encoder=resnet18").eval()
    resnet = timm.create_model("resnet18", in_chans=1, num_classes=0).eval()
    resnet.load_state_dict(backbone.encoder.state_dict())
    image = torch.randn(2, 1, 64, 64)
    assert torch.allclose(resnet(image), backbone(image).pooled, atol=1e-6)


def test_the_plain_unet_is_the_papers():
    spec = registry().resolve(BackboneSpec, "unet:encoder=plain")
    backbone = spec.build(1)
    maps = backbone.eval()(torch.zeros(1, 1, 32, 32)).pyramid
    assert [(m.shape[1], m.shape[2]) for m in maps[1:]] == [(64, 32), (128, 16), (256, 8), (512, 4), (1024, 2)]
    assert backbone.dense_channels == 64
    assert backbone.pooled_channels == 1024
    convolutions = [m for m in backbone.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 10
    assert all(c.kernel_size == (3, 3) for c in convolutions)
    skips = [block.conv1[0].in_channels for block in backbone.decoder.blocks]
    assert skips[:4] == [1024 + 512, 512 + 256, 256 + 128, 128 + 64]  # as many skips as in the paper


def test_the_default_fcn_has_the_papers_2048_pooled_channels():
    assert build("fcn").pooled_channels == 2048


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("unet:encoder=resnet19", "resnet19"),
        ("unet:encoder=tu-nothing", "nothing"),
        ("fcn:encoder=resnet5", "resnet50"),
        ("smp:fpn,encoder=plain", "plain"),
        ("unet:encoder=plain,weights=imagenet", "no pre-trained weights"),
    ],
)
def test_an_unknown_encoder_is_told(text, told):
    with pytest.raises(UsageError) as error:
        build(text)
    assert told in str(error.value)
