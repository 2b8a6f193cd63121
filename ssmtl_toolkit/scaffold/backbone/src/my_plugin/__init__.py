"""A backbone for ssmtl-toolkit: a small feature pyramid network in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import BackboneSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.backbone import Backbone


class MyPlugin(BackboneSpec):
    """A small feature pyramid (Lin et al., 2017): three stages down, and their maps summed on the way up."""

    # What users type: --backbone my_plugin:width=32
    name: ClassVar[str] = "my_plugin"

    # Each field is an option. This backbone has all features that tasks may need; if yours has fewer, set `provides`.
    width: int = Field(16, ge=1, description="Channels of the dense map and of the first stage; each stage doubles it.")

    def build(self, in_channels: int) -> Backbone:
        # Imported here, not at the top: torch takes seconds to import, and `ssmtl --help` does not need it.
        from my_plugin.module import build

        return build(in_channels, self.width)


@hookimpl
def ssmtl_backbones() -> list[type[BackboneSpec]]:
    return [MyPlugin]
