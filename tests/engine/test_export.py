"""Networks can be exported and traced: by themselves, and with a head on them."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.engine.backbone import Traceable
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec

pytestmark = pytest.mark.filterwarnings("ignore")  # export and tracing warn of their own doings
TEXTS = ["unet:encoder=resnet18", "unet:encoder=plain,width=4", "fcn:encoder=resnet18", "smp:fpn,encoder=resnet18"]


def build(text):
    torch.manual_seed(0)
    return registry().resolve(BackboneSpec, text).build(1).eval()


def images(number):
    return torch.randn(number, 1, 64, 64, generator=torch.Generator().manual_seed(number))


def exported(module):
    return torch.export.export(module, (images(2),), dynamic_shapes={"image": {0: Dim("n")}}, strict=False)


def same(first, second):
    return len(first) == len(second) and all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("text", TEXTS)
@torch.no_grad()
def test_an_exported_backbone_gives_the_same_for_any_number_of_images(text):
    backbone = build(text)
    program = exported(Traceable(backbone, ("pooled", "dense", "decoded", "pyramid"))).module()
    for number in (1, 5):
        features = backbone(images(number))
        eager = [features.pooled, features.dense, *features.decoded, *features.pyramid]
        assert same(program(images(number)), eager)


@pytest.mark.parametrize("text", TEXTS)
@torch.no_grad()
def test_a_traced_backbone_gives_the_same_for_any_number_of_images(text):
    backbone = build(text)
    traced = torch.jit.trace(Traceable(backbone), images(2))
    assert same(traced(images(5)), [backbone(images(5)).dense])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["segmentation", "denoising"])
@torch.no_grad()
def test_a_backbone_with_a_head_can_be_exported_and_traced_as_it_is(head):
    backbone = build("unet:encoder=resnet18")
    model = Downstream(backbone, registry().resolve(HeadSpec, head).build(backbone, 3)).eval()
    for program in (exported(model).module(), torch.jit.trace(model, images(2))):
        assert same([program(images(5))], [model(images(5))])


@pytest.mark.slow
def test_what_is_not_asked_for_is_not_in_the_program():
    backbone = build("unet:encoder=resnet18")
    number = {name: convolutions(exported(Traceable(backbone, (name,)))) for name in ("pooled", "dense", "decoded")}
    encoder, decoder = ([m for m in part.modules() if isinstance(m, nn.Conv2d)] for part in backbone.children())
    assert number["pooled"] == len(encoder)
    assert number["dense"] == number["decoded"] == len(encoder) + len(decoder)


def convolutions(program):
    return sum("conv2d" in str(node.target) for node in program.graph.nodes)
