"""Layers that get their shapes from the first images: made before a fine-tuning, and refused if nothing reads them."""

from typing import ClassVar

import pytest
from torch import nn

from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.downstream.model import ModelSpec
from ssmtl_toolkit.engine.building import has_lazy
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec
from ssmtl_toolkit.testing.sample import Small


class Lazy(BackboneSpec):
    name: ClassVar[str] = "lazy"
    used: bool = True

    def build(self, in_channels):
        backbone = Small().build(in_channels)
        layer = nn.LazyConv2d(in_channels, 1)
        if self.used:
            backbone.encoder.register_forward_pre_hook(lambda module, images: layer(images[0]))
        backbone.encoder.layer = layer
        return backbone


def model_of(backbone):
    return ModelSpec(backbone, registry().resolve(HeadSpec, "denoising"), Slicing(size=32), None, 1)


def test_a_lazy_layer_has_its_shape_when_a_fine_tuning_begins():
    model = model_of(Lazy()).build()
    assert model.backbone.encoder.layer.weight.shape == (1, 1, 1, 1)
    assert not has_lazy(model)
    assert model.training


def test_a_lazy_layer_that_is_never_used_is_refused_by_name():
    with pytest.raises(SsmtlError, match=r"^backbone 'lazy:used=false': its lazy layer of 'encoder.layer.weight' is"):
        model_of(Lazy(used=False)).build()
