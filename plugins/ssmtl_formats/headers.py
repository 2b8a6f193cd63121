"""The headers of DICOM files: what places each image in space, and nothing that names a patient."""

from __future__ import annotations

import contextlib
import re
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from ssmtl_formats import private
from ssmtl_formats.attributes import TAGS, TIMES, Marks, marks_of
from ssmtl_formats.fields import Vector, numbers, whole, within
from ssmtl_formats.films import FILM, cine_ms, placed_nowhere, thickness_of
from ssmtl_formats.mosaics import CSA_TAGS, csa_of, is_mosaic, tiles_of
from ssmtl_toolkit.data.source import AGAIN, FileError

_NAMES = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "InstanceNumber", "Rows"),
    *("Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "ImagePositionPatient"),
    *("ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue"),
    *("SpacingBetweenSlices", "SliceThickness"),  # of mosaics and films only
    *("FrameTime", "FrameTimeVector", "ImagerPixelSpacing", "SequenceOfUltrasoundRegions"),  # of films only
    "PixelRepresentation",  # without which the padding value of an implicit file has no sign
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ModalityLUTSequence"),
)
_TAGS = (*map(Tag, _NAMES), *map(Tag, TAGS))
_NO_SCANS = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTDOSE", "RTPLAN", "REG", "FID", "RWV", "DOC")
_SHOWN = (*_NO_SCANS, "CT", "MR", "PT", "NM", "US", "XA", "RF", "CR", "DX", "MG", "OT", "SC", "ECG", "RTIMAGE")
_DEFLATED = 128 << 20  # most bytes that a deflated file may hold; a slice has less than a MiB
_lock = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's warnings, which may quote a patient's name; filters are process-wide, hence a lock."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Frame:
    """One image of a DICOM file.

    Attributes:
        file: the file that holds it.
        index: its index among the frames of the file.
        series: what all images of a series have in common; not to be shown.
        number: the number of the series; None if missing.
        instance: what no two images share, not to be shown; "" if missing.
        unfit: why it is not a slice of a volume; "" if it is one.
        size: rows and columns.
        pixel: mm between rows and between columns.
        directions: along a row, then along a column, in LPS.
        position: of the first pixel, mm in LPS.
        scaling: slope and intercept.
        marks: what distinguishes it from others at its position.
        instance_number: with the index within the file.
        padding: the stored value outside the scanner's field of view.
        inverted: small values are to be displayed bright (MONOCHROME1).
        tiles: how many slices are side by side in a row of its file, a mosaic; 0: the file shows this slice alone.
        note: what is odd about it.
        thickness: of the slice, in mm.
        cine_ms: ms from the first frame of its file to this one, as FrameTime or FrameTimeVector say; 0: unknown.
        film: the frames of a file without positions, as frames of one slice.
    """

    file: Path
    index: int
    series: tuple[str, int | None]
    number: int | None
    instance: str
    unfit: str
    size: tuple[int, int] = (0, 0)
    pixel: Vector = ()
    directions: Vector = ()
    position: Vector = ()
    scaling: tuple[float, float] = (1.0, 0.0)
    marks: Marks = field(default_factory=Marks)
    instance_number: tuple[int, int] = (0, 0)
    padding: float | None = None
    inverted: bool = False
    tiles: int = 0
    note: str = ""
    thickness: float = 1.0
    cine_ms: float = 0.0
    film: tuple[Frame, ...] = ()

    @property
    def acquired(self) -> tuple[object, ...]:
        """Sort key among images that agree in everything else."""
        times = self.marks.times
        return (*times[: len(TIMES)], times[len(TIMES) :], self.instance_number)


def read_frames(file: Path) -> list[Frame]:
    """Read the header of one file: one frame, several for a multi-frame file, none for an index.

    Raises:
        FileError: it is not a DICOM file, or its header is impossible.
    """
    if file.stat().st_size == 0:
        raise FileError("is empty: copy it again, or remove it if it is not a slice")
    with quiet():
        try:
            return _frames(file, dataset_of(file, _TAGS, stop_before_pixels=True))
        except (OSError, FileError, MemoryError):
            raise
        except Exception as error:  # damaged data make pydicom fail in many ways; its message may name the patient
            raise FileError(f"is damaged or not a DICOM file (pydicom: {type(error).__name__}); {AGAIN}") from None


def series_key(file: Path) -> tuple[str, int | None] | None:
    """Return what the images of a series have in common (not to be shown); None if missing or not readable."""
    with quiet():
        try:
            data = dataset_of(file, ("SeriesInstanceUID", "SeriesNumber"), stop_before_pixels=True)
            uid = str(data.get("SeriesInstanceUID") or "")
            return (uid, whole(data, "SeriesNumber")) if uid else None
        except Exception:  # reported when the whole header is read
            return None


def dataset_of(file: Path, tags: Sequence[str | int], stop_before_pixels: bool = False) -> Dataset:
    """Let pydicom read some tags of a file, with or without a preamble.

    Raises:
        FileError: it is deflated and too large: pydicom inflates all of it in memory.
    """
    with file.open("rb") as stream:
        read_preamble(stream, force=True)
        start = stream.tell()
        for implicit in (False, True):  # as pydicom tries it
            stream.seek(start)
            meta = read_dataset(stream, implicit, True, stop_when=lambda tag, *_: tag >> 16 != 2)
            with contextlib.suppress(NotImplementedError):
                if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                    _check_inflated(stream)
                break
    return pydicom.dcmread(
        file, force=True, stop_before_pixels=stop_before_pixels, specific_tags=[Tag(tag) for tag in tags]
    )


def _check_inflated(stream: BinaryIO) -> None:
    inflate, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflate.eof and (packed := inflate.unconsumed_tail or stream.read(1 << 16)):
        count += len(inflate.decompress(packed, 1 << 20))
        if count > _DEFLATED:
            raise FileError(f"is deflated and holds over {_DEFLATED >> 20} MiB; export it without compression")


def _frames(file: Path, data: Dataset) -> list[Frame]:
    if data.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return []  # an index with the name of a slice
    if "SOPClassUID" not in data and "Rows" not in data:
        raise FileError(f"is not a DICOM file, or has lost its header; {AGAIN}")
    number = whole(data, "SeriesNumber")
    series = (str(data.get("SeriesInstanceUID") or ""), number)
    instance = str(data.get("SOPInstanceUID") or "")
    many = whole(data, "NumberOfFrames") or 1
    if unfit := _unfit(data, many):
        film = _film(file, (series, instance), data, many) if unfit == FILM else ()
        return [Frame(file, 0, series, number, instance, unfit, film=film)]
    groups = data.get("PerFrameFunctionalGroupsSequence") or ([data] if many == 1 else [])
    if len(groups) != many:
        raise FileError(f"announces {many} frames but describes {len(groups)}; {AGAIN}")
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if many == 1 and (is_mosaic(data) or private.tiles(data) > 1):
        return _slices(_frame(file, 0, (series, instance), data, [groups[0], shared, data]), data)
    return [_frame(file, i, (series, instance), data, [group, shared, data]) for i, group in enumerate(groups)]


def _film(file: Path, names: tuple[tuple[str, int | None], str], data: Dataset, many: int) -> tuple[Frame, ...]:
    """The frames of a file without positions, such as of ultrasound: one slice, wherever it lies.

    () if they are in colour or cannot be used: nothing has to be sound in what is skipped unless it is asked for.
    """
    if (whole(data, "SamplesPerPixel") or 1) != 1:
        return ()
    with contextlib.suppress(FileError):
        place, note = placed_nowhere(data)
        return tuple(replace(_frame(file, i, names, data, [place, data]), note=note) for i in range(many))
    return ()


def _slices(mosaic: Frame, data: Dataset) -> list[Frame]:
    """The slices of a mosaic as frames of their own; a single unfit one if the header does not say how they lie."""
    csa = csa_of(dataset_of(mosaic.file, CSA_TAGS, stop_before_pixels=True))
    distance = numbers([data], "SpacingBetweenSlices", 1, ()) or numbers([data], "SliceThickness", 1, (0.0,))
    count = csa.slices or private.tiles(data)
    tiles = tiles_of(count, mosaic.size, mosaic.position, mosaic.directions, mosaic.pixel, distance[0], csa.normal)
    if tiles is None:
        known = f"{count} of {mosaic.size[0]} x {mosaic.size[1]} pixels" if count else "their number is missing"
        return [replace(mosaic, unfit=f"a mosaic whose slices cannot be cut out ({known}); export the original series")]
    note = "its mosaics do not say in which direction their slices follow; upwards along the normal is assumed"
    return [
        replace(
            mosaic,
            index=k,
            instance=mosaic.instance and f"{mosaic.instance}/{k}",
            size=tiles.size,
            position=position,
            instance_number=(mosaic.instance_number[0], k),
            tiles=tiles.side,
            note=note if tiles.assumed else "",
        )
        for k, position in enumerate(tiles.positions)
    ]


def _unfit(data: Dataset, many: int) -> str:
    modality = re.sub("[^A-Z0-9]", "", str(data.get("Modality") or ""))[:16]
    if "Rows" not in data or "Columns" not in data or modality in _NO_SCANS:
        # an unknown code may be anything, even a name
        shown = modality if modality in _SHOWN else "unknown kind" if modality else "no image"
        return f"an object that is not a scan ({shown})"
    kind = str(data.get("ImageType") or "").upper()
    if "LOCALIZER" in kind:
        return "a scout (localizer)"
    if "VFRAME" in kind:
        return "a mosaic (all slices of a volume side by side in one image; dcm2niix converts it to .nii.gz)"
    if many > 1 and "PerFrameFunctionalGroupsSequence" not in data:
        return FILM
    if many == 1 and "ImagePositionPatient" not in data and "PerFrameFunctionalGroupsSequence" not in data:
        return "an image without a position (a screenshot, or exported without it)"
    return ""


def _frame(
    file: Path, index: int, names: tuple[tuple[str, int | None], str], data: Dataset, groups: list[Dataset]
) -> Frame:
    series, instance = names
    shown = str(data.get("PhotometricInterpretation") or "")
    if (whole(data, "SamplesPerPixel") or 1) != 1 or not shown.startswith("MONOCHROME"):
        raise FileError("has colours; a scan has one value per pixel: export the original series")
    if "ModalityLUTSequence" in data:
        raise FileError("maps its values by a lookup table, which is not supported; export it with slope and intercept")
    size = (whole(data, "Rows") or 0, whole(data, "Columns") or 0)
    if min(size) < 1:
        raise FileError(f"has {size[0]} rows and {size[1]} columns; {AGAIN}")
    scaling = numbers(within(groups, "PixelValueTransformationSequence"), "RescaleSlope", 1, (1.0,))
    scaling += numbers(within(groups, "PixelValueTransformationSequence"), "RescaleIntercept", 1, (0.0,))
    if scaling[0] == 0:
        raise FileError("has a rescale slope of 0, so that all its voxels are equal; export the series again")
    padding = numbers(groups[-1:], "PixelPaddingValue", 1, ())
    return Frame(
        file,
        index,
        series,
        series[1],
        f"{instance}/{index}" if instance else "",
        "",
        size,
        numbers(within(groups, "PixelMeasuresSequence"), "PixelSpacing", 2),
        numbers(within(groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        numbers(within(groups, "PlanePositionSequence"), "ImagePositionPatient", 3),
        (scaling[0], scaling[1]),
        marks_of(groups),
        (whole(data, "InstanceNumber") or 0, index),
        padding[0] if padding else None,
        shown == "MONOCHROME1",
        thickness=thickness_of(groups),
        cine_ms=cine_ms(data, index),
    )
