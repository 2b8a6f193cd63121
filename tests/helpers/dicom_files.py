"""Writes DICOM series by pydicom for tests, each image with what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

RNG = np.random.default_rng(0)
VOXELS = (200 * RNG.standard_normal((20, 24, 9)) + 100 * np.arange(9)).astype(np.int16)  # (columns, rows, slices)
# mm in RAS+ of voxel (column, row, slice); oblique, so that no two axes can be mixed up unnoticed
TURN = np.linalg.qr(np.array([[1.0, 0.1, 0.05], [-0.1, 1.0, 0.2], [0.0, -0.2, 1.0]]))[0]
TURN = TURN * np.sign(np.diag(TURN))
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([-0.7, -0.8, 2.5])
AFFINE[:3, 3] = [30.0, -12.0, 40.0]
PATIENT = "Mustermann^Erika"


def image(plane: np.ndarray, affine: np.ndarray, k: int, series: int = 3, **extra: Any) -> Dataset:
    """An image of stored values (columns, rows) at slice `k` of the grid `affine` (RAS+)."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    lengths = np.linalg.norm(lps[:3, :2], axis=0)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.SeriesNumber = f"1.2.3.{series}", series
    data.PatientName, data.PatientID, data.SeriesDescription = PATIENT, "4711", f"of {PATIENT}"
    data.Modality, data.ImageType, data.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], (5 * k) % 9 + 1
    data.ImageOrientationPatient = [f"{x:.8f}" for x in (lps[:3, :2] / lengths).T.ravel()]
    data.ImagePositionPatient = [f"{x:.6f}" for x in lps[:3, 3] + k * lps[:3, 2]]
    data.PixelSpacing = [f"{lengths[1]:.6f}", f"{lengths[0]:.6f}"]
    data.SliceThickness, data.SpacingBetweenSlices = "99", "77"  # neither is where slices are
    data.Rows, data.Columns = plane.shape[1], plane.shape[0]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * plane.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(plane.dtype.kind == "i")
    data.PixelData = np.ascontiguousarray(plane.T).tobytes()
    data["PixelData"].VR = "OW"
    for name, value in extra.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def write_series(
    folder: Path,
    voxels: np.ndarray = VOXELS,
    affine: np.ndarray = AFFINE,
    change: Callable[[Dataset, int], Dataset | None] = lambda data, k: data,
    name: str = "IM{}",
    **extra: Any,
) -> Path:
    """Write a slice for each k, last one first by name, unpadded; `change` may alter one or leave it out (None)."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(voxels.shape[2]):
        data = change(image(voxels[..., k], affine, k, **extra), k)
        if data is not None:
            save(data, folder / name.format(voxels.shape[2] - k))
    return folder


def save(data: Dataset, file: Path) -> Path:
    data.save_as(file, enforce_file_format=True)
    return file


def as_rle(data: Dataset, k: int = 0) -> Dataset:
    data.compress(RLELossless, generate_instance_uid=False)
    return data


def item(**values: Any) -> Sequence:
    """A sequence of one item."""
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return Sequence([data])


def enhanced(file: Path, frames: list[tuple[np.ndarray, int, dict[str, Sequence]]]) -> Path:
    """Write an enhanced multi-frame file of (plane, slice, functional groups)."""
    data = image(frames[0][0], AFFINE, 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    data.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=data.ImageOrientationPatient),
        PixelMeasuresSequence=item(PixelSpacing=data.PixelSpacing),
    )
    data.PerFrameFunctionalGroupsSequence = Sequence(
        item(PlanePositionSequence=item(ImagePositionPatient=image(plane, AFFINE, k).ImagePositionPatient), **groups)[0]
        for plane, k, groups in frames
    )
    del data.ImageOrientationPatient, data.ImagePositionPatient, data.PixelSpacing, data.ImageType
    data.NumberOfFrames = len(frames)
    data.PixelData = b"".join(np.ascontiguousarray(plane.T).tobytes() for plane, _, _ in frames)
    data["PixelData"].VR = "OW"
    return save(data, file)
