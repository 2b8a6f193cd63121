"""The generative model of chest CT and cardiac MRI volumes that stands in for MM-WHS without a download.

All lengths are in mm. Anatomy uses RAS+ coordinates (x to the right, y to the front, z upwards) whose origin is the
middle of the chest at the height of the heart; the heart has its own frame with the same directions.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ssmtl_datasets.anatomy import LABELS, Layer, chest, heart
from ssmtl_datasets.shapes import Field, Point, Range, rotation, smooth_field, warp
from ssmtl_toolkit.data.files import atomic_write

Modality = Literal["ct", "mri"]

REVISION = 1  # raise it when equal arguments would give other files: existing ones are kept under this number


@dataclass(frozen=True)
class PhantomScan:
    """One synthetic scan, with integer intensities, so that an int16 file holds exactly this image.

    Attributes:
        image: (I, J, K) float32, in HU for CT, in arbitrary units for MRI.
        label: (I, J, K) uint16, the values of MM-WHS (`LABELS`), 0 elsewhere.
        affine: (4, 4) float64, voxel indices -> mm in RAS+.
        patient: the scan's patient, also the stem of its file name.
        modality: "ct" or "mri".
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint16]
    affine: NDArray[np.float64]
    patient: str
    modality: str


@dataclass(frozen=True)
class Protocol:
    """How a modality is acquired; `codes` are the orientations in which its files store I, J and K."""

    codes: tuple[str, ...]
    pixel: Range
    spacing: Range
    slices: tuple[int, int]
    focus: Point
    tilt: float  # degrees
    size: int = 96


PROTOCOLS: dict[Modality, Protocol] = {
    "ct": Protocol(("LPS", "RAS", "LAS", "RPI"), (2.8, 3.4), (2.8, 3.2), (44, 60), (0, 0, 12), 0),
    "mri": Protocol(("PSL", "ASR", "PIR", "AIL"), (2.3, 2.8), (3.3, 3.8), (40, 48), (-12, 8, 8), 4),
}

# HU, mean and spread between patients.
CT_TISSUES: dict[str, Range] = {
    "air": (-1000, 2),
    "lung": (-830, 35),
    "fat": (-100, 8),
    "muscle": (55, 8),
    "mediastinum": (-35, 25),
    "bone": (380, 70),
    "marrow": (190, 40),
    "liver": (95, 25),
}
# HU of the left heart's blood, the right heart's blood and the myocardium, by the phase of the iodine bolus.
CT_PHASES: tuple[tuple[Range, Range, Range], ...] = (
    ((260, 380), (90, 180), (85, 125)),  # arterial
    ((150, 230), (260, 380), (70, 100)),  # pulmonary
    ((130, 190), (120, 180), (90, 120)),  # venous
    ((75, 120), (65, 110), (60, 85)),  # late or thin bolus
)
# Arbitrary units under a T2/T1 (balanced) and a T1 weighting; a patient lies between the two.
MRI_TISSUES: dict[str, Range] = {
    "air": (4, 4),
    "lung": (35, 25),
    "fat": (230, 260),
    "muscle": (85, 115),
    "mediastinum": (140, 150),
    "bone": (35, 45),
    "marrow": (120, 170),
    "liver": (105, 150),
    "myocardium": (100, 120),
    "LV": (235, 125),
}


def make_scan(patient: int, modality: Modality, seed: int = 0) -> PhantomScan:
    """Generate the scan of one patient, a function of its arguments alone."""
    anatomy, contrast, noise = _generator(patient, modality, seed).spawn(3)
    affine, shape, points = _acquisition_grid(PROTOCOLS[modality], anatomy)
    points += warp(shape, anatomy)
    values = _ct_values(contrast) if modality == "ct" else _mri_values(contrast)
    edge = PROTOCOLS[modality].pixel[1] * contrast.uniform(1.0, 1.7)
    image, label = _paint([*chest(points, anatomy), *heart(points, anatomy)], values, edge)
    acquire = _acquire_ct if modality == "ct" else _acquire_mri
    image = acquire(image.reshape(shape), points.reshape(3, *shape), noise)
    name = _patient_name(patient, modality)
    return PhantomScan(np.rint(image), label.reshape(shape), affine, name, modality)


def write_phantom(out: Path, patients: int = 20, modality: Modality = "ct", seed: int = 0) -> list[Path]:
    """Write the scans of patients 1, 2, … as `out/images/*.nii.gz` and `out/labels/*.nii.gz` of the same names.

    Each file is complete or absent, equal arguments give equal bytes, and a patient whose files exist is not
    generated again, so use a separate folder for each seed. Returns the images' paths in order.
    """
    return [_write_patient(out, patient, modality, seed) for patient in range(1, patients + 1)]


def _write_patient(out: Path, patient: int, modality: Modality, seed: int) -> Path:
    name = f"{_patient_name(patient, modality)}.nii.gz"
    image, label = out / "images" / name, out / "labels" / name
    if not (image.exists() and label.exists()):
        scan = make_scan(patient, modality, seed)
        _write_nifti(label, scan.label, scan.affine)
        _write_nifti(image, scan.image.astype(np.int16), scan.affine)
    return image


def _patient_name(patient: int, modality: Modality) -> str:
    return f"phantom_{modality}_{patient:03d}"


def _write_nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    file = nib.Nifti1Image(array, affine)
    file.set_qform(affine, code=1)
    file.set_sform(affine, code=1)
    file.header.set_xyzt_units("mm")
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(file.to_bytes(), compresslevel=1, mtime=0))


def _generator(patient: int, modality: Modality, seed: int) -> Generator:
    streams = np.random.SeedSequence([seed, patient, list(PROTOCOLS).index(modality)])
    return np.random.Generator(np.random.Philox(streams))


def _acquisition_grid(protocol: Protocol, rng: Generator) -> tuple[NDArray[np.float64], tuple[int, int, int], Field]:
    """Draw a field of view: the file's affine, its shape and the voxels' anatomical coordinates (3, N)."""
    pixel = rng.uniform(*protocol.pixel)
    shape = (protocol.size, protocol.size, int(rng.integers(*protocol.slices, endpoint=True)))
    code = protocol.codes[rng.integers(len(protocol.codes))]
    directions = np.zeros((3, 3))
    for axis, letter in enumerate(code):
        directions["LRPAIS".index(letter) // 2, axis] = 1 if letter in "RAS" else -1
    steps = rotation(rng.uniform(-protocol.tilt, protocol.tilt, 3)) @ directions
    steps = steps * (pixel, pixel, rng.uniform(*protocol.spacing))
    centre = np.array(protocol.focus) + rng.uniform(-6, 6, 3)
    corner = centre - steps @ ((np.array(shape) - 1) / 2)
    indices = np.indices(shape, dtype=np.float32).reshape(3, -1)
    points = steps.astype(np.float32) @ indices + corner[:, None].astype(np.float32)
    table = rng.uniform(-60, 60, 3)  # scanners count mm from the table, not from the patient
    return nib.affines.from_matvec(steps, corner + table), shape, points


def _paint(layers: list[Layer], values: dict[str, float], edge: float) -> tuple[Field, NDArray[np.uint16]]:
    """Paint the layers in order; a voxel closer than `edge`/2 to a border is a mixture (partial volume)."""
    image = np.full(layers[0].distance.shape, values["air"], np.float32)
    label = np.zeros(image.shape, np.uint16)
    for layer in layers:
        near = np.flatnonzero(layer.distance < edge / 2)
        distance = layer.distance[near]
        share = np.minimum(0.5 - distance / np.float32(edge), 1)
        image[near] += share * (np.float32(values[layer.tissue]) - image[near])
        label[near[distance < 0]] = layer.label
    return image, label


def _ct_values(rng: Generator) -> dict[str, float]:
    """Draw the HU of every tissue; which chambers are bright depends on where the iodine is."""
    left, right, muscle = (rng.uniform(*hu) for hu in CT_PHASES[rng.integers(len(CT_PHASES))])
    blood = {"LV": left, "LA": left, "aorta": left, "RV": right, "RA": right, "PA": right}
    values = {tissue: rng.normal(mean, spread) for tissue, (mean, spread) in CT_TISSUES.items()}
    values |= {name: hu * rng.uniform(0.85, 1.12) for name, hu in blood.items()}
    return values | {"myocardium": muscle}


def _mri_values(rng: Generator) -> dict[str, float]:
    """Draw the signal of every tissue, between two weightings; blood differs from chamber to chamber by its flow."""
    weighting = rng.uniform(0, 0.4)
    values = {k: a + weighting * (b - a) for k, (a, b) in MRI_TISSUES.items()}
    values |= {name: values["LV"] * rng.uniform(0.9, 1.1) for name in LABELS if name != "myocardium"}
    return {tissue: value * rng.uniform(0.92, 1.08) for tissue, value in values.items()}


def _soften(image: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Mix each voxel with its neighbours along every axis; for noise, as opposite faces count as neighbours."""
    for axis in range(3):
        before, after = np.roll(image, 1, axis), np.roll(image, -1, axis)
        image = (1 - 2 * np.float32(weight)) * image + np.float32(weight) * (before + after)
    return image


def _acquire_ct(image: NDArray[np.float32], points: Field, rng: Generator) -> NDArray[np.float32]:
    """Add uneven mixing of the iodine, quantum noise with the grain of a kernel and, in some patients, streaks."""
    image = image + rng.uniform(6, 20) * smooth_field(image.shape, 14, rng)
    grain = _soften(rng.standard_normal(image.shape, dtype=np.float32), 0.15)
    image += np.float32(rng.uniform(30, 90)) * grain
    if rng.random() < 0.35:
        image += _streaks(points, rng)
    return np.clip(image, -1024, 3071)


def _streaks(points: Field, rng: Generator) -> NDArray[np.float32]:
    """Draw rays from dense contrast medium in the superior vena cava, at the heights where it flows in."""
    x, y, z = points[0] - 25, points[1] - 5, points[2] - rng.uniform(20, 60)
    angle, reach = np.arctan2(y, x), np.hypot(x, y)
    rays = np.cos(angle * rng.integers(5, 9) + rng.uniform(0, 6)) + np.cos(angle * rng.integers(11, 17))
    fade = np.exp(-reach / 60 - (z / 22) ** 2)
    return np.asarray(rng.uniform(40, 110) * rays * fade, np.float32)


def _acquire_mri(image: NDArray[np.float32], points: Field, rng: Generator) -> NDArray[np.float32]:
    """Add the coil's bias field, the receiver's gain and Rician noise."""
    image = image * (1 + np.float32(rng.uniform(0.03, 0.10)) * smooth_field(image.shape, 14, rng))
    coil = points[1] / 200 + 0.5 * smooth_field(image.shape, 4, rng)
    image = image * np.exp(np.float32(rng.uniform(0.1, 0.3)) * coil)
    spread = np.float32(rng.uniform(8, 22))
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * spread
    return np.asarray(np.hypot(image + _soften(real, 0.1), imaginary) * rng.uniform(0.6, 2.5), np.float32)
