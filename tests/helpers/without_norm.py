"""A plugin with a network without batch norm: a batch gives what its halves give."""

from typing import ClassVar

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import BackboneSpec


class WithoutNorm(BackboneSpec):
    """Two convolutions down, one up."""

    name: ClassVar[str] = "without_norm"

    def build(self, in_channels):
        from torch import nn

        from ssmtl_toolkit.engine.backbone import Backbone

        class Encoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.Tanh())
                self.second = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Tanh())

            def forward(self, image):
                first = self.first(image)
                return [first, self.second(first)]

        class Decoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)

            def forward(self, maps):
                return maps[0] + self.up(maps[1])

        return Backbone(Encoder(), Decoder(), in_channels, 16, 8)


@hookimpl
def ssmtl_backbones():
    return [WithoutNorm]
