"""The stored pixel values of DICOM images, unpacked by whichever decoder is strict about damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ssmtl_formats.dicom import INSTALL
from ssmtl_formats.headers import Frame, quiet
from ssmtl_toolkit.data.source import AGAIN, FileError

_TAGS = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData", "FloatPixelData"),
    *("DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]


class Pixels:
    """Decodes the frames of one series; a multi-frame file is decoded once."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._planes: NDArray[Any] = np.empty((0, 0, 0))

    def of(self, frame: Frame) -> NDArray[Any]:
        """Return the stored values (rows, columns).

        Raises:
            FileError: they are not there, not whole, or packed in a way that nothing installed can unpack.
        """
        if frame.file != self._file:
            self._planes = _decode(frame.file)
            self._file = frame.file
        if self._planes.shape[1:] != frame.size or frame.index >= len(self._planes):
            raise FileError(f"has pixels of another size than its header says; {AGAIN}")
        plane: NDArray[Any] = self._planes[frame.index]
        return plane


def _decode(file: Path) -> NDArray[Any]:
    """Decode all frames of a file, (frames, rows, columns)."""
    with quiet():
        try:
            data = pydicom.dcmread(file, force=True, specific_tags=[*_TAGS])
            if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
                raise FileError(f"has no pixels; {AGAIN}")
            syntax = _syntax(data)
            _check_length(data, syntax)
            try:
                decoder = get_decoder(syntax)
            except NotImplementedError:
                raise FileError(f"is packed in a way that is not known ({_named(syntax)}); export it again") from None
            if not decoder.is_available:
                raise FileError(f"is packed as {_named(syntax)}, for which GDCM is needed: {INSTALL}")
            # of the two that know JPEG 2000 and JPEG, Pillow is the one that refuses half an image
            plugin = "pillow" if "pillow" in decoder.available_plugins else ""
            array, _ = decoder.as_array(data, raw=True, decoding_plugin=plugin)
        except (OSError, FileError, MemoryError):
            raise
        except Exception as error:  # its words may quote what the file says
            raise FileError(f"has pixels that cannot be decoded (pydicom: {type(error).__name__}); {AGAIN}") from None
    return array if array.ndim == 3 else array[None]


def _syntax(data: Dataset) -> UID:
    said = data.file_meta.get("TransferSyntaxUID") if hasattr(data, "file_meta") else None
    if said:
        return UID(said)
    implicit, little = data.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _check_length(data: Dataset, syntax: UID) -> None:
    """Refuse plain pixels that are cut short, with both sizes."""
    if "PixelData" not in data or syntax.is_encapsulated:
        return
    frames = int(data.get("NumberOfFrames") or 1)
    needed = (int(data.Rows) * int(data.Columns) * frames * int(data.BitsAllocated) + 7) // 8
    if len(data.PixelData) < needed:
        raise FileError(f"is cut short: it has {len(data.PixelData)} bytes of pixels, {needed} are needed; {AGAIN}")


def _named(syntax: UID) -> str:
    return syntax.name if syntax.name != syntax else f"transfer syntax {str(syntax)[:64]}"
