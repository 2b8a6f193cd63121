"""Networks: each gives what its spec says, computes no more than is read, and is exactly the library's own."""

import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from ssmtl_smp.plain import plain as smp_plain
from ssmtl_toolkit.engine.backbone import Backbone, Level, Levels
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.device import compile_parts
from ssmtl_toolkit.specs import BackboneSpec

SMALL = [
    "unet:encoder=resnet18",
    "unet:encoder=plain,width=4",
    "unet:encoder=tu-resnet18",
    "fcn:encoder=resnet18",
    "fcn:encoder=resnet18,stride=32",
    "fcn:encoder=convnext_atto,channels=8",
    *(f"smp:{arch},encoder=resnet18" for arch in ("unetplusplus", "manet", "linknet", "fpn", "pspnet")),
    *(f"smp:{arch},encoder=resnet18" for arch in ("deeplabv3", "deeplabv3plus", "upernet", "segformer", "pan")),
]


def build(text):
    torch.manual_seed(0)
    return registry().resolve(BackboneSpec, text).build(1)


def size_of(text):
    return 128 if "smp:pan" in text else 64  # the least that they take


@pytest.mark.parametrize("text", SMALL)
def test_every_backbone_gives_features_of_the_shapes_it_says(text):
    backbone, size = build(text).eval(), size_of(text)
    features = backbone(torch.randn(2, 1, size, size))
    assert features.dense.shape == (2, backbone.dense_channels, size, size)
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


LEVELS = {
    "unet:encoder=resnet18": (
        [(1, 1), (64, 2), (64, 4), (128, 8), (256, 16), (512, 32)],
        [(16, 1), (32, 2), (64, 4), (128, 8), (256, 16)],
    ),
    "unet:encoder=plain,width=4": (
        [(1, 1), (4, 1), (8, 2), (16, 4), (32, 8), (64, 16)],
        [(4, 1), (4, 1), (8, 2), (16, 4), (32, 8)],
    ),
    "fcn:encoder=resnet18": ([(64, 2), (64, 4), (128, 8), (256, 16), (512, 32)], [(64, 8), (64, 16), (64, 32)]),
    "fcn:encoder=resnet18,stride=32": ([(64, 2), (64, 4), (128, 8), (256, 16), (512, 32)], [(64, 32)]),
    "smp:fpn,encoder=resnet18": (
        [(1, 1), (64, 2), (64, 4), (128, 8), (256, 16), (512, 32)],
        [(128, 4), (256, 4), (256, 8), (256, 16), (256, 32)],
    ),
    "smp:linknet,encoder=resnet18": (
        [(1, 1), (64, 2), (64, 4), (128, 8), (256, 16), (512, 32)],
        [(32, 1), (64, 2), (64, 4), (128, 8), (256, 16)],
    ),
    "smp:deeplabv3,encoder=resnet18": ([(1, 1), (64, 2), (64, 4), (128, 8), (256, 8), (512, 8)], [(256, 8)]),
}


@pytest.mark.parametrize("text", LEVELS)
def test_levels_are_the_channels_and_strides_that_the_libraries_publish(text):
    levels = build(text).levels
    encoder, decoder = ([(level.channels, level.stride) for level in part] for part in vars(levels).values())
    assert (encoder, decoder) == LEVELS[text]


def test_timm_says_the_same_of_its_encoder():
    backbone = build("fcn:encoder=convnext_atto")
    info = backbone.encoder.feature_info
    assert backbone.levels.encoder == tuple(map(Level, info.channels(), info.reduction()))


def test_finding_the_levels_leaves_no_trace_and_is_done_once():
    backbone = build("unet:encoder=resnet18").train()
    backbone.encoder.layer1.eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    modes, state = [module.training for module in backbone.modules()], torch.get_rng_state()
    assert backbone.levels is backbone.levels
    assert [module.training for module in backbone.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert backbone.state_dict().keys() == before.keys()


class Strided(torch.nn.Module):
    """Maps of the strides that it is given; it takes no image below `least` pixels."""

    def __init__(self, least, *strides):
        super().__init__()
        self.least, self.strides = least, strides

    def forward(self, image):
        if image.shape[2] < self.least:
            raise ValueError("too small")
        return [image[:, :, ::stride, ::stride] for stride in self.strides]


def test_levels_of_networks_that_want_large_images_are_found_and_without_a_decoder_there_are_none():
    found = [Backbone(Strided(least, 2, 64), torch.nn.Identity(), 1, 1, 0).levels for least in (0, 200)]
    assert found[0] == found[1] == Levels((Level(1, 2), Level(1, 64)), ())
    with pytest.raises(SsmtlError, match=r"levels cannot be found by images of 64, .* \(ValueError: too small\)"):
        _ = Backbone(Strided(1000, 2), torch.nn.Identity(), 1, 1, 0).levels
    with pytest.raises(SsmtlError, match="deepest map is always a single pixel"):
        _ = Backbone(Strided(0, 2, 1000), torch.nn.Identity(), 1, 1, 0).levels


@pytest.mark.parametrize("text", [text for text in SMALL if text.startswith(("unet", "smp"))])
@pytest.mark.parametrize("training", [True, False])
def test_a_decoder_that_hands_out_all_its_maps_is_smps_own_to_the_bit(text, training):
    backbone, spec = build(text).train(training), registry().resolve(BackboneSpec, text)
    encoder = smp_plain(spec.width) if spec.encoder == "plain" else spec.encoder
    more = {"decoder_channels": [32, 16, 8, 4, 4]} if spec.encoder == "plain" else {}
    network = smp.create_model(spec.architecture, encoder, encoder_weights=None, in_channels=1, classes=1, **more)
    network.decoder.load_state_dict(backbone.decoder.state_dict())
    assert list(network.decoder.state_dict()) == list(backbone.decoder.state_dict())
    maps = backbone(torch.randn(2, 1, size_of(text), size_of(text))).pyramid
    given, dense = [[one.detach().requires_grad_() for one in maps] for _ in range(2)], []
    for decoder, leaves in zip((backbone.decoder, network.decoder.train(training)), given, strict=True):
        torch.manual_seed(1)
        decoded = decoder(leaves)
        dense.append(decoded if isinstance(decoded, torch.Tensor) else decoded[0])
        dense[-1].square().sum().backward()
    assert torch.equal(*dense)
    read = [[one.grad for one in leaves if one.grad is not None] for leaves in given]
    assert len(read[0]) == len(read[1])
    assert all(map(torch.equal, *read))  # sums of gradients are rounded by the order of what is summed up
    ours_by_name, theirs_by_name = (dict(part.decoder.named_parameters()) for part in (backbone, network))
    assert all(torch.equal(ours_by_name[name].grad, theirs_by_name[name].grad) for name in theirs_by_name)
    assert all(map(torch.equal, network.decoder.state_dict().values(), backbone.decoder.state_dict().values()))


def test_one_run_of_the_decoder_gives_dense_and_all_its_maps():
    backbone, calls = build("unet:encoder=resnet18"), []
    backbone.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    features = backbone(torch.randn(2, 1, 64, 64))
    assert [one.shape[1:] for one in features.decoded[:2]] == [(16, 64, 64), (32, 32, 32)]
    assert features.dense is features.decoded[0]
    assert calls == ["decoder"]


def test_the_gradient_at_a_decoders_map_is_that_of_its_readers_alone():
    features = build("unet:encoder=resnet18")(torch.randn(2, 1, 64, 64))
    coarse, dense = features.decoded[2], features.dense
    (at_coarse,) = torch.autograd.grad(coarse.sum() + dense.square().sum(), [coarse], retain_graph=True)
    assert torch.equal(at_coarse, torch.ones_like(coarse))


def test_a_compiled_decoder_gives_the_first_map_alone_unless_more_are_needed(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    given = []
    for needs in ({"dense", "pooled"}, {"decoded"}):
        backbone = build("unet:encoder=resnet18").eval()
        before, image = copy.deepcopy(backbone), torch.randn(1, 1, 64, 64)
        compile_parts(backbone, needs)
        assert list(backbone.state_dict()) == list(before.state_dict())
        assert torch.equal(copy.deepcopy(backbone)(image).dense, before(image).dense)
        given.append(len(backbone(image).decoded))
    assert given == [1, 5]


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
