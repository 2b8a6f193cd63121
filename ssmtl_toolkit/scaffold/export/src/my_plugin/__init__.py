"""An export for ssmtl-toolkit: weights as a .pth file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import Exportable, ExportSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.export import Exported
    from torch import Tensor


class MyPlugin(ExportSpec):
    """A .pth file with the tensors of the network below a key, for code that calls torch.load."""

    # What users type: --to my_plugin:key=model
    name: ClassVar[str] = "my_plugin"
    takes: ClassVar[frozenset[Exportable]] = frozenset({"backbone", "model"})

    # Each field is an option.
    key: str = Field("state_dict", description="The key of the tensors in the file.")

    def write(self, exported: Exported, folder: Path) -> str:
        # Imported here, not at the top: `ssmtl --help` should not wait for torch.
        from my_plugin.files import write_weights

        return write_weights(exported.module, folder, self.key)

    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        # Open what lies in the folder as its users will: what differs is never handed out.
        from my_plugin.files import with_weights

        yield exported.module(images), with_weights(exported.module, folder, self.key)(images)


@hookimpl
def ssmtl_exports() -> list[type[ExportSpec]]:
    return [MyPlugin]
