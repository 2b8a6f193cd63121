"""Reads NIfTI-1 and NIfTI-2 files (.nii, .nii.gz, .hdr/.img pairs) by nibabel, after our own checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import ReaderSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.data.volume import Header, Volume

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz")  # an .img belongs to its .hdr and is not a scan by itself


class Nifti(ReaderSpec):
    """NIfTI files, checked to the last byte; damage is refused, oddities are noted."""

    name: ClassVar[str] = "nifti"

    def matches(self, path: Path) -> bool:
        """Recognise by the suffix, in any case; hidden files and macOS's `._*` companions are ignored."""
        return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")

    def files(self, path: Path) -> Sequence[Path]:
        """Return the file and, for an .hdr, its .img."""
        return (path, *(image for image in images_of(path) if image.exists()))

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_nifti.reading.read_nifti` does."""
        from ssmtl_nifti.reading import read_nifti

        return read_nifti(path, volume)

    def read_all(self, path: Path, volumes: int) -> Sequence[Volume]:
        """Read all volumes of a 4-D file, unpacked once."""
        from ssmtl_nifti.reading import read_all_volumes

        return read_all_volumes(path)

    def header(self, path: Path) -> Header:
        """Read the header alone."""
        from ssmtl_nifti.reading import read_nifti_header

        return read_nifti_header(path)


def images_of(header: Path) -> list[Path]:
    """Return the names that the voxel file of an .hdr may have; none for other files."""
    stem = header.name.removesuffix(".gz").removesuffix(".GZ")
    if not stem.lower().endswith(".hdr"):
        return []
    return [header.with_name(stem[:-4] + suffix) for suffix in (".img", ".img.gz", ".IMG", ".IMG.GZ")]


@hookimpl
def ssmtl_readers() -> list[type[ReaderSpec]]:
    """Register the reader `nifti`."""
    return [Nifti]
