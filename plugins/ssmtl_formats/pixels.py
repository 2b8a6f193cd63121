"""The stored pixel values of DICOM images, decompressed by whichever decoder is strict about damage."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from ssmtl_formats.headers import Frame, dataset_of, quiet
from ssmtl_formats.mosaics import cut
from ssmtl_formats.names import INSTALL
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import AGAIN, FileError

_SHAPE = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_TAGS = [
    *(*_SHAPE, "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration", "PixelData", "FloatPixelData"),
    *("DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]
# Which of pydicom's decoders we trust. Pillow refuses half an image. The package python-gdcm ends the whole process on
# some damaged images, for which the GDCM in SimpleITK raises an error; it decodes what the others cannot.
_PLUGINS = {
    "": {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian},
    "pydicom": {RLELossless},
    "pillow": {JPEG2000Lossless, JPEG2000, JPEGBaseline8Bit},
}
_BY_GDCM = {JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless}


class Pixels:
    """Decodes the frames of one series; a multi-frame file is decoded once, if its frames are asked for in a row.

    With `keep` it is decoded once in any case.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._planes: dict[Path, NDArray[Any]] = {}

    def of(self, frame: Frame) -> NDArray[Any]:
        """Return the stored values (rows, columns).

        Raises:
            FileError: they are missing, incomplete, or compressed in a way that nothing installed can decode.
        """
        if frame.file not in self._planes:
            decoded = _decode(frame.file)
            kept = self._planes if self._keep else {}
            self._planes = {**kept, frame.file: cut(decoded, frame.tiles) if frame.tiles else decoded}
        planes = self._planes[frame.file]
        if planes.shape[1:] != frame.size or frame.index >= len(planes):
            raise FileError(f"has pixels of a different size than its header says; {AGAIN}")
        plane: NDArray[Any] = planes[frame.index]
        return plane


def frames_of(file: Path) -> Iterator[NDArray[Any]]:
    """Decode the frames of a file (rows, columns) one after the other, so that many of them fit into memory.

    Raises:
        FileError: as `Pixels.of`.
    """
    with _decoding():
        data, syntax, plugin = _opened(file)
    many, size = int(data.get("NumberOfFrames") or 1), int(data.Rows) * int(data.Columns)
    if plugin is None or size * int(data.BitsAllocated) % 8:  # pydicom takes no frame that begins within a byte
        check_memory((many, int(data.Rows), int(data.Columns)), np.dtype(np.uint8))
        yield from _decode(file)
        return
    for index in range(many):
        with _decoding():
            array, _ = get_decoder(syntax).as_array(data, index=index, raw=True, decoding_plugin=plugin)
        yield array


def _decode(file: Path) -> NDArray[Any]:
    """Decode all frames of a file, (frames, rows, columns)."""
    with _decoding():
        data, syntax, plugin = _opened(file)
        if plugin is None:
            return _by_gdcm(data, syntax)
        array, _ = get_decoder(syntax).as_array(data, raw=True, decoding_plugin=plugin)
    return array if array.ndim == 3 else array[None]


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Turn the many ways in which pydicom fails into one; its message may quote the file."""
    with quiet():
        try:
            yield
        except (OSError, FileError, MemoryError):
            raise
        except Exception as error:
            raise FileError(f"has pixels that cannot be decoded ({type(error).__name__}); {AGAIN}") from None


def _opened(file: Path) -> tuple[Dataset, UID, str | None]:
    """Read the pixels of a file as stored, and which of pydicom's plugins decodes them; None: GDCM does.

    Raises:
        FileError: they are missing, cut short, or compressed in a way that nothing decodes.
    """
    data = dataset_of(file, _TAGS)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise FileError(f"has no pixels; {AGAIN}")
    syntax = _syntax(data)
    plugin = next((name for name, known in _PLUGINS.items() if syntax in known), None)
    if plugin is None and syntax not in _BY_GDCM:
        raise FileError(f"is compressed as {_named(syntax)}, which is not supported; export it without compression")
    _check_length(data, syntax)
    return data, syntax, plugin


def _by_gdcm(data: Dataset, syntax: UID) -> NDArray[Any]:
    """Let the GDCM in SimpleITK decode each frame, from a file that holds nothing but its pixels."""
    try:
        import SimpleITK
    except ImportError:
        raise FileError(f"is compressed as {_named(syntax)}, for which SimpleITK is needed: {INSTALL}") from None
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    planes = []
    with tempfile.TemporaryDirectory() as folder:
        reader.SetFileName(str(Path(folder) / "frame.dcm"))
        for frame in generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames") or 1)):
            bare = Dataset()
            for name in (*_SHAPE, "PhotometricInterpretation"):
                setattr(bare, name, data[name].value)
            bare.SOPClassUID, bare.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
            bare.PixelData = encapsulate([frame])
            bare["PixelData"].VR = "OB"
            bare.file_meta = FileMetaDataset()
            bare.file_meta.TransferSyntaxUID = syntax
            bare.save_as(reader.GetFileName(), enforce_file_format=True)
            planes.append(SimpleITK.GetArrayFromImage(reader.Execute())[0])
    return np.stack(planes)


def _syntax(data: Dataset) -> UID:
    syntax = data.file_meta.get("TransferSyntaxUID") if hasattr(data, "file_meta") else None
    if syntax:
        return UID(syntax)
    implicit, little = data.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _check_length(data: Dataset, syntax: UID) -> None:
    """Refuse uncompressed pixels that are cut short; the message gives both sizes."""
    if "PixelData" not in data or syntax.is_encapsulated:
        return
    frames = int(data.get("NumberOfFrames") or 1)
    needed = (int(data.Rows) * int(data.Columns) * frames * int(data.BitsAllocated) + 7) // 8
    if len(data.PixelData) < needed:
        raise FileError(f"is cut short: it has {len(data.PixelData)} bytes of pixels, {needed} are needed; {AGAIN}")


def _named(syntax: UID) -> str:
    if syntax.name != syntax:
        return syntax.name
    return f"transfer syntax {syntax}" if re.fullmatch(r"[\d.]{1,64}", syntax) else "an unknown transfer syntax"
