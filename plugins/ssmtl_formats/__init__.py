"""Reads DICOM series, NRRD, MetaImage, MGH, and folders of PNG slices; order and spacing come from positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ssmtl_formats import names
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import ReaderSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.data.volume import Volume


class Dicom(ReaderSpec):
    """A folder with a DICOM series, or one file of it: order and spacing by the slices' positions, gaps refused.

    It needs pydicom, and SimpleITK for some kinds of JPEG: pip install 'ssmtl-toolkit[formats]'.
    """

    name: ClassVar[str] = "dicom"
    revision: ClassVar[int] = 3  # 1 wrapped whole numbers beyond 32 bits, 2 mixed volumes

    def matches(self, path: Path) -> bool:
        """Tell a file by its suffix or, unless that is another format's, its beginning; a folder by the files in it.

        A folder without any is one too if folders below it hold one series together.
        """
        if not names.is_folder(path):
            return names.is_dicom(path)
        if names.dicom_files(path, first=True):
            return True
        if not names.may_hold_parts(path):
            return False
        from ssmtl_formats.dicom import holds_parts

        return holds_parts(path)

    def parts(self, path: Path) -> Mapping[str, Path]:
        """A scan for each series of images in a folder, `series-3` by its number where there are several."""
        from ssmtl_formats.dicom import parts_of

        return parts_of(path)

    def files(self, path: Path) -> Sequence[Path]:
        """The files of the series."""
        from ssmtl_formats.dicom import files_of

        return files_of(path)

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one series as `ssmtl_formats.dicom.read_dicom` does."""
        from ssmtl_formats.dicom import read_dicom

        return read_dicom(path, volume)


class Nrrd(ReaderSpec):
    """NRRD files: .nrrd, or .nhdr with its voxels in a file beside it.

    It needs SimpleITK: pip install 'ssmtl-toolkit[formats]'.
    """

    name: ClassVar[str] = "nrrd"
    revision: ClassVar[int] = 2  # 1 took another format's header for voxels

    def matches(self, path: Path) -> bool:
        """Tell by the suffix, in any case."""
        return names.ends_in(path, ".nrrd", ".nhdr")

    def files(self, path: Path) -> Sequence[Path]:
        """The file, and the one with the voxels where it names another."""
        from ssmtl_formats.itk import files_of

        return files_of(path, "NRRD")

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_formats.itk.read_itk` does."""
        from ssmtl_formats.itk import read_itk

        return read_itk(path, volume, "NRRD")


class MetaImage(ReaderSpec):
    """MetaImage files: .mha, or .mhd with its voxels in a file beside it.

    It needs SimpleITK: pip install 'ssmtl-toolkit[formats]'.
    """

    name: ClassVar[str] = "metaimage"
    revision: ClassVar[int] = 2  # 1 took another format's header for voxels

    def matches(self, path: Path) -> bool:
        """Tell by the suffix, in any case."""
        return names.ends_in(path, ".mha", ".mhd")

    def files(self, path: Path) -> Sequence[Path]:
        """The file, and the one with the voxels where it names another."""
        from ssmtl_formats.itk import files_of

        return files_of(path, "MetaImage")

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_formats.itk.read_itk` does."""
        from ssmtl_formats.itk import read_itk

        return read_itk(path, volume, "MetaImage")


class Mgh(ReaderSpec):
    """FreeSurfer's .mgh and .mgz files."""

    name: ClassVar[str] = "mgh"

    def matches(self, path: Path) -> bool:
        """Tell by the suffix, in any case."""
        return names.ends_in(path, ".mgh", ".mgz", ".mgh.gz")

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_formats.mgh.read_mgh` does."""
        from ssmtl_formats.mgh import read_mgh

        return read_mgh(path, volume)


class Slices(ReaderSpec):
    """A folder of PNG slices, in the natural order of their names; slices.toml in it may say spacing and axis."""

    name: ClassVar[str] = "slices"
    revision: ClassVar[int] = 2  # 1 took masks for slices, and gray levels of coloured palettes for values

    def matches(self, path: Path) -> bool:
        """Tell by the names in the folder: two .png or more, and neither scans nor a prediction beside them."""
        return bool(names.png_files(path))

    def parts(self, path: Path) -> Mapping[str, Path]:
        """The scan, unless the pictures are figures, of different sizes or coloured, or slices of several scans."""
        from ssmtl_formats.slices import parts_of

        return parts_of(path)

    def files(self, path: Path) -> Sequence[Path]:
        """The PNG files, and slices.toml if it is there."""
        said = path / names.SLICES
        return (*names.png_files(path), *([said] if said.is_file() else []))

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_formats.slices.read_slices` does."""
        from ssmtl_formats.slices import read_slices

        return read_slices(path)


@hookimpl
def ssmtl_readers() -> list[type[ReaderSpec]]:
    """Offer the readers of all formats but NIfTI."""
    return [Dicom, Nrrd, MetaImage, Mgh, Slices]
