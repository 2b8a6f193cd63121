"""Writes DICOM SEG by highdicom and RTSTRUCT by pydicom for tests, for a series of `dicom_files`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from helpers.dicom_files import AFFINE, VOXELS, image, item, save

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def sources(voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, series: int = 3) -> list[Dataset]:
    """The images of a scan, one for each slice, with all that highdicom wants of them."""
    made = []
    for k in range(voxels.shape[2]):
        data = image(voxels[..., k], affine, k, series)
        data.StudyInstanceUID, data.FrameOfReferenceUID = "1.2.4", f"1.2.5.{series}"
        data.PatientBirthDate = data.PatientSex = data.AccessionNumber = data.StudyID = ""
        data.StudyDate = data.StudyTime = data.ReferringPhysicianName = None
        del data.SpacingBetweenSlices  # a wrong one, which highdicom believes
        made.append(data)
    return made


def write_scan_series(folder: Path, images: list[Dataset]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, data in enumerate(images):
        save(data, folder / f"IM{k}.dcm")
    return folder


def write_seg(
    file: Path,
    images: list[Dataset],
    masks: np.ndarray,
    names: list[str],
    kind: str = "BINARY",
    numbers: list[int] | None = None,
    **extra: Any,
) -> Path:
    """Write masks (columns, rows, slices, segments) as a segmentation of these images; empty frames are omitted."""
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept

    organ = CodedConcept("123037004", "SCT", "Anatomical Structure")
    described = [
        hd.seg.SegmentDescription(i, name, organ, organ, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for i, name in enumerate(names, start=1)
    ]
    pixels = np.ascontiguousarray(masks.transpose(2, 1, 0, 3))
    if kind == "LABELMAP":
        pixels = (pixels * np.arange(1, len(names) + 1)).max(axis=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hd.seg.Segmentation(
            images,
            pixels.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
            kind,
            described,
            series_instance_uid=generate_uid(),
            series_number=9,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="x",
            manufacturer_model_name="x",
            software_versions="1",
            device_serial_number="1",
            **extra,
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(file)
    return file


def rtstruct(
    file: Path,
    structures: dict[str, list[np.ndarray]],
    series: int = 3,
    affine: np.ndarray = AFFINE,
    kind: str = "CLOSED_PLANAR",
    numbers: list[int] | None = None,
) -> Path:
    """Write structures: for each name contours (N, 3) in voxels of the grid `affine`."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Modality, data.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    numbers = numbers or list(range(1, len(structures) + 1))
    referred = item(SeriesInstanceUID=f"1.2.3.{series}")
    studies = item(ReferencedSOPInstanceUID="1.2.4", RTReferencedSeriesSequence=referred)
    data.ReferencedFrameOfReferenceSequence = item(RTReferencedStudySequence=studies)
    data.StructureSetROISequence = Sequence(
        item(ROINumber=number, ROIName=name)[0] for number, name in zip(numbers, structures, strict=True)
    )
    drawn = []
    for number, contours in zip(numbers, structures.values(), strict=True):
        made = []
        for contour in contours:
            points = np.c_[contour, np.ones(len(contour))] @ (LPS @ affine).T
            flat = [f"{x:.6f}" for x in points[:, :3].ravel()]
            made.append(item(ContourGeometricType=kind, NumberOfContourPoints=len(contour), ContourData=flat)[0])
        drawn.append(item(ReferencedROINumber=number, ContourSequence=Sequence(made))[0])
    data.ROIContourSequence = Sequence(drawn)
    file.parent.mkdir(parents=True, exist_ok=True)
    return save(data, file)
