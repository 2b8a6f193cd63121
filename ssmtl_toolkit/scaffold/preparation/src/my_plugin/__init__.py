"""A preparation for ssmtl-toolkit: bright values compressed by asinh, as those of PET need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import PreparationSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.data.preparation import Stage
    from ssmtl_toolkit.data.volume import Stack


class MyPlugin(PreparationSpec):
    """Compress values that are large, either way, by asinh: a few bright spots no longer set the scale."""

    # What users type: --prepare my_plugin:scale=5
    name: ClassVar[str] = "my_plugin"

    # Raise it when the same scan would become other slices: cached ones are then made again.
    revision: ClassVar[int] = 1

    # Each field is an option.
    scale: float = Field(100.0, gt=0, description="Values well below it stay as they are, in the scan's own units.")

    def prepare(self, stack: Stack, size: int) -> Stage:
        # Imported here, not at the top: numpy takes a while to import, and `ssmtl --help` does not need it.
        from my_plugin.values import compressed

        return compressed(stack, self.scale)


@hookimpl
def ssmtl_preparations() -> list[type[PreparationSpec]]:
    return [MyPlugin]
