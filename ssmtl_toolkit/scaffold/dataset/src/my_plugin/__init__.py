"""A dataset for ssmtl-toolkit: a folder for each patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import DatasetSpec, Scan

if TYPE_CHECKING:
    from ssmtl_toolkit.data.readers import Readers


class MyPlugin(DatasetSpec):
    """ROOT/PATIENT/… with a patient's scans in any folders, and the label map of NAME as NAME_seg beside it."""

    # What users type: --data my_plugin:root=scans/
    name: ClassVar[str] = "my_plugin"
    positional: ClassVar[str | None] = "root"  # so that `root=` may be omitted

    # Each field is an option.
    root: Path = Field(description="The folder with the patients' folders.")

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        # `readers` are the installed readers, so that this works for every format that one of them reads.
        from my_plugin.listing import list_scans

        return list_scans(self.root, readers)


@hookimpl
def ssmtl_datasets() -> list[type[DatasetSpec]]:
    return [MyPlugin]
