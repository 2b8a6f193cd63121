"""A reader for ssmtl-toolkit: scans in NumPy archives (.npz)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import ReaderSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.data.volume import Volume


class MyPlugin(ReaderSpec):
    """NumPy archives (.npz): voxels (I, J, K) or (I, J, K, V) as `array`, the 4x4 matrix to mm in RAS+ as `affine`."""

    name: ClassVar[str] = "my_plugin"
    # Slices are cached by the content of their file. Increase this when the same file would be read differently.
    revision: ClassVar[int] = 1

    def matches(self, path: Path) -> bool:
        # By name, because this is called for every file in a folder. Hidden files belong to other programs.
        return path.name.lower().endswith(".npz") and not path.name.startswith(".")

    def read(self, path: Path, volume: int | None = None) -> Volume:
        # Imported here, not at the top: `ssmtl --help` should not wait for NumPy.
        from my_plugin.reading import read_archive

        return read_archive(path, volume)


@hookimpl
def ssmtl_readers() -> list[type[ReaderSpec]]:
    return [MyPlugin]
