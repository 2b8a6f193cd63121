"""Reads DICOM series, NRRD, MetaImage, MGH, and slices as pictures; order and spacing come from positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from ssmtl_formats import names
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import ReaderSpec
from ssmtl_toolkit.text import printable

if TYPE_CHECKING:
    from ssmtl_toolkit.data.volume import Header, Volume


class Dicom(ReaderSpec):
    """A DICOM series, given as its folder or one of its files; slices are ordered by position, gaps are refused.

    Needs pydicom, and SimpleITK for some kinds of JPEG: pip install 'ssmtl-toolkit[formats]'.
    """

    name: ClassVar[str] = "dicom"
    revision: ClassVar[int] = 4  # 1 wrapped integers beyond 32 bits, 2 mixed volumes, 3 took the step from both ends

    films: bool = Field(
        False, description="Whether images at one position, or without one, are frames, as --axis time takes them."
    )

    def in_time(self) -> Self:
        """Return a reader for which images at one position are frames."""
        return self.model_copy(update={"films": True})

    def matches(self, path: Path) -> bool:
        """Recognise a file by its suffix or, unless another format has it, its first bytes; a folder by its files.

        A folder without such files matches too if folders below it hold one series together.
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
        """Return a scan for each image series in a folder, named by its number (`series-3`) if there are several."""
        from ssmtl_formats.dicom import parts_of

        return parts_of(path, films=self.films)

    def files(self, path: Path) -> Sequence[Path]:
        """Return the files of the series."""
        from ssmtl_formats.dicom import files_of

        return files_of(path, films=self.films)

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one series as `ssmtl_formats.dicom.read_dicom` does."""
        from ssmtl_formats.dicom import read_dicom

        return read_dicom(path, volume, films=self.films)

    def read_all(self, path: Path, volumes: int) -> Sequence[Volume]:
        """Read all volumes of the series, each file decoded once."""
        from ssmtl_formats.dicom import read_all_volumes

        return read_all_volumes(path, films=self.films)

    def header(self, path: Path) -> Header:
        """Read the headers of the files of the series, not their pixels."""
        from ssmtl_formats.dicom import read_dicom_header

        return read_dicom_header(path, films=self.films)


class _DicomLabels(ReaderSpec):
    """Label maps in DICOM: a file, or a folder that holds nothing else."""

    only_labels: ClassVar[bool] = True
    uids: ClassVar[tuple[str, ...]]
    what: ClassVar[str]

    def matches(self, path: Path) -> bool:
        """Recognise a file by its SOP class, a folder by its only file."""
        return names.holds_label(path, *self.uids) is not None

    def files(self, path: Path) -> Sequence[Path]:
        """Return the file."""
        return (names.holds_label(path, *self.uids) or path,)

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Refuse it: it has no voxels without its scan."""
        raise DataError(
            f"{printable(path)}: is {self.what}, the label map of a scan; put it into labels/ beside images/, or into "
            f"the column label of a manifest"
        )

    def scan_of(self, path: Path, scans: Sequence[Path]) -> Path | None:
        """Return the scan whose series it refers to."""
        from ssmtl_formats.dicom import referred

        return referred(names.holds_label(path, *self.uids) or path, scans)

    def _file(self, path: Path) -> Path:
        from ssmtl_formats.dicom import check_installed

        check_installed(path)
        return names.holds_label(path, *self.uids) or path


class DicomSeg(_DicomLabels):
    """DICOM segmentations (SEG) as label maps: binary, fractional and label map; classes by their segment labels.

    Needs pydicom: pip install 'ssmtl-toolkit[formats]'.
    """

    name: ClassVar[str] = "dicom_seg"
    uids: ClassVar[tuple[str, ...]] = names.SEG
    what: ClassVar[str] = "a DICOM segmentation (SEG)"

    def read_label(self, path: Path, image: Volume) -> Volume:
        """Read a segmentation as `ssmtl_formats.segmentation.read_segmentation` does."""
        file = self._file(path)
        from ssmtl_formats.segmentation import read_segmentation

        return read_segmentation(file, image)

    def classes(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Return the segment labels with the numbers of the segments."""
        file = self._file(path)
        from ssmtl_formats.segmentation import classes_of

        return classes_of(file)


class RtStruct(_DicomLabels):
    """DICOM structure sets (RTSTRUCT) as label maps: closed contours, filled on the slices of their scan.

    Needs pydicom: pip install 'ssmtl-toolkit[formats]'.
    """

    name: ClassVar[str] = "rtstruct"
    uids: ClassVar[tuple[str, ...]] = names.RTSTRUCT
    what: ClassVar[str] = "a DICOM structure set (RTSTRUCT)"

    def read_label(self, path: Path, image: Volume) -> Volume:
        """Fill the contours as `ssmtl_formats.contours.read_contours` does."""
        file = self._file(path)
        from ssmtl_formats.contours import read_contours

        return read_contours(file, image)

    def classes(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Return the names of the structures with their numbers."""
        file = self._file(path)
        from ssmtl_formats.contours import classes_of

        return classes_of(file)


class Nrrd(ReaderSpec):
    """NRRD files: .nrrd, or .nhdr with its voxels in a file beside it; segmentations of 3D Slicer with their names.

    Needs SimpleITK: pip install 'ssmtl-toolkit[formats]'.
    """

    name: ClassVar[str] = "nrrd"
    revision: ClassVar[int] = 3  # 1 took another format's header for voxels, 2 read one layer of segments

    def matches(self, path: Path) -> bool:
        """Recognise by the suffix, in any case."""
        return names.ends_in(path, ".nrrd", ".nhdr")

    def files(self, path: Path) -> Sequence[Path]:
        """Return the file and, if it names another one for the voxels, that one."""
        from ssmtl_formats.itk import files_of

        return files_of(path, "NRRD")

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_formats.itk.read_itk` does."""
        from ssmtl_formats.itk import read_itk

        return read_itk(path, volume, "NRRD")

    def read_all(self, path: Path, volumes: int) -> Sequence[Volume]:
        """Read all volumes, decoded once."""
        from ssmtl_formats.itk import read_all_volumes

        return read_all_volumes(path, "NRRD")

    def header(self, path: Path) -> Header:
        """Read the header alone."""
        from ssmtl_formats.itk import read_itk_header

        return read_itk_header(path, "NRRD")

    def read_label(self, path: Path, image: Volume) -> Volume:
        """Read a label map; a segmentation of 3D Slicer, which may be cropped, is placed on the grid of its scan."""
        from ssmtl_formats.itk import read_itk
        from ssmtl_toolkit.data.grid import placed

        label = read_itk(path, None, "NRRD")
        return placed(label, image) if self.classes(path) else label

    def classes(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Return the names of Slicer's segments, with their values."""
        from ssmtl_formats.slicer import classes_of

        return classes_of(path)


class MetaImage(ReaderSpec):
    """MetaImage files: .mha, or .mhd with its voxels in a file beside it.

    Needs SimpleITK: pip install 'ssmtl-toolkit[formats]'.
    """

    name: ClassVar[str] = "metaimage"
    revision: ClassVar[int] = 2  # 1 took another format's header for voxels

    def matches(self, path: Path) -> bool:
        """Recognise by the suffix, in any case."""
        return names.ends_in(path, ".mha", ".mhd")

    def files(self, path: Path) -> Sequence[Path]:
        """Return the file and, if it names another one for the voxels, that one."""
        from ssmtl_formats.itk import files_of

        return files_of(path, "MetaImage")

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_formats.itk.read_itk` does."""
        from ssmtl_formats.itk import read_itk

        return read_itk(path, volume, "MetaImage")

    def read_all(self, path: Path, volumes: int) -> Sequence[Volume]:
        """Read all volumes, decoded once."""
        from ssmtl_formats.itk import read_all_volumes

        return read_all_volumes(path, "MetaImage")

    def header(self, path: Path) -> Header:
        """Read the header alone."""
        from ssmtl_formats.itk import read_itk_header

        return read_itk_header(path, "MetaImage")


class Mgh(ReaderSpec):
    """FreeSurfer's .mgh and .mgz files."""

    name: ClassVar[str] = "mgh"

    def matches(self, path: Path) -> bool:
        """Recognise by the suffix, in any case."""
        return names.ends_in(path, ".mgh", ".mgz", ".mgh.gz")

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_formats.mgh.read_mgh` does."""
        from ssmtl_formats.mgh import read_mgh

        return read_mgh(path, volume)

    def read_all(self, path: Path, volumes: int) -> Sequence[Volume]:
        """Read all volumes, unpacked once."""
        from ssmtl_formats.mgh import read_all_volumes

        return read_all_volumes(path)

    def header(self, path: Path) -> Header:
        """Read the header alone."""
        from ssmtl_formats.mgh import read_mgh_header

        return read_mgh_header(path)


class Slices(ReaderSpec):
    """Slices as pictures: a folder of PNG, JPEG or TIFF, or a TIFF file of several pages.

    They are in the natural order of their names; an optional slices.toml sets spacing and axis.
    """

    name: ClassVar[str] = "slices"
    revision: ClassVar[int] = 2  # 1 took masks for slices, and gray levels of coloured palettes for values

    frames: bool = Field(False, description="Whether the pictures are frames of one slice, as --axis time takes them.")

    def in_time(self) -> Self:
        """Return a reader for which the pictures are frames."""
        return self.model_copy(update={"frames": True})

    def matches(self, path: Path) -> bool:
        """Recognise a folder by two pictures or more, and neither scans nor a prediction beside them.

        A TIFF file is recognised by its suffix and its second page.
        """
        return bool(names.picture_files(path)) if names.is_folder(path) else names.is_stack(path)

    def parts(self, path: Path) -> Mapping[str, Path]:
        """Return the scan, unless the pictures are figures (of different sizes or in colour) or of several scans."""
        from ssmtl_formats.slices import parts_of

        return parts_of(path)

    def files(self, path: Path) -> Sequence[Path]:
        """Return the pictures, and slices.toml if it exists."""
        folder = path if path.is_dir() else path.parent
        settings = folder / names.SLICES
        pictures = names.picture_files(path) if path.is_dir() else [path]
        return (*pictures, *([settings] if settings.is_file() else []))

    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read one scan as `ssmtl_formats.slices.read_slices` does."""
        from ssmtl_formats.slices import frames_of, read_slices
        from ssmtl_toolkit.data.values import volume_index

        if not self.frames:
            return read_slices(path)
        frames = frames_of(path)
        return frames[volume_index(len(frames), volume)]

    def read_all(self, path: Path, volumes: int) -> Sequence[Volume]:
        """Read all frames, each picture once."""
        from ssmtl_formats.slices import frames_of

        return frames_of(path)

    def header(self, path: Path) -> Header:
        """Read the sizes in the headers of the pictures, not their pixels."""
        from ssmtl_formats.slices import header_of_frames, read_slices_header

        return header_of_frames(path) if self.frames else read_slices_header(path)

    def read_label(self, path: Path, image: Volume) -> Volume:
        """Read a label map, unless it is JPEG."""
        self.classes(path)
        return self.read(path)

    def classes(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Return nothing: pictures do not name their classes; refuse those that lose values."""
        from ssmtl_formats.slices import refuse_lossy

        refuse_lossy(path)
        return {}


@hookimpl
def ssmtl_readers() -> list[type[ReaderSpec]]:
    """Register the readers of all formats except NIfTI."""
    return [Dicom, DicomSeg, RtStruct, Nrrd, MetaImage, Mgh, Slices]
