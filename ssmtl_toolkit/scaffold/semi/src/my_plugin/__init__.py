"""A way to learn from unlabelled slices for ssmtl-toolkit: low entropy of the network's answers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import SemiSpec

if TYPE_CHECKING:
    from my_plugin.module import LowEntropy


class MyPlugin(SemiSpec):
    """Let the network decide: its answers on unlabelled slices have little entropy (Grandvalet and Bengio, 2004)."""

    # What users type: --semi my_plugin
    name: ClassVar[str] = "my_plugin"
    # It does not ask step.teach for the answers of the averaged weights, so that it also works with --average 0.
    teaches: ClassVar[bool] = False

    # Each field is an option. Every kind of part has some: here `weight` of the loss, and `start`, the share of the
    # steps after which unlabelled slices are used.
    weight: float = Field(0.1, gt=0, description="Weight of the loss on unlabelled slices.")
    ramp: float = Field(0.5, ge=0, le=1, description="Share of the time with unlabelled slices in which weight rises.")

    def build(self) -> LowEntropy:
        # Imported here, not at the top: torch takes seconds to import, and `ssmtl --help` does not need it.
        from my_plugin.module import LowEntropy

        return LowEntropy(self.weight, self.ramp)


@hookimpl
def ssmtl_semi() -> list[type[SemiSpec]]:
    return [MyPlugin]
