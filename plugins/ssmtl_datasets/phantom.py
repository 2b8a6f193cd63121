"""The generative model of chest CT and cardiac MRI volumes that stands in for MM-WHS where there is no download.

Every length is in mm. Anatomy lives in RAS+ coordinates (x to the right, y to the front, z upwards) whose origin is
the middle of the chest at the height of the heart; the heart has a frame of its own in the same directions.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Modality = Literal["ct", "mri"]
Field = NDArray[np.float32]  # (N,) one value a voxel, or (3, N) one point a voxel
Point = tuple[float, float, float]
Range = tuple[float, float]

REVISION = 1  # raise it when equal arguments would give other files: made ones are kept by this number
LABELS = {"LV": 500, "RV": 600, "LA": 420, "RA": 550, "myocardium": 205, "aorta": 820, "PA": 850}


@dataclass(frozen=True)
class PhantomScan:
    """One made scan, with whole-numbered intensities, so that an int16 file holds exactly this image.

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
class Blob:
    """A superellipsoid whose first radius lies along `axis`."""

    centre: Point
    radii: Point
    axis: Point = (1, 0, 0)
    power: float = 2.0


@dataclass(frozen=True)
class Tube:
    """A tube along the polyline `points`, with a radius at each of them."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]


@dataclass(frozen=True)
class Layer:
    """A tissue painted over what lies below: its signed distance (N,) is negative inside."""

    tissue: str
    distance: Field
    label: int = 0


@dataclass(frozen=True)
class Protocol:
    """How a modality is acquired; `codes` name the ways in which files of it store I, J and K."""

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

# In the heart's frame; the left ventricle's axis runs from its base to the apex: left, to the front and down.
APEX: Point = (-0.65, 0.55, -0.52)
LV = Blob((-29, 3, -11), (38, 21, 22), APEX)
CHAMBERS: dict[str, tuple[Blob | Tube, ...]] = {
    "RA": (Blob((41, -8, -5), (21, 25, 29)), Tube(((42, 2, 8), (22, 16, 22)), (13, 7))),
    "LA": (
        Blob((-3, -41, 12), (31, 19, 22)),
        Tube(((-25, -35, 16), (-42, -18, 20)), (11, 6)),
    ),
    "RV": (
        Blob((6, 29, -16), (43, 24, 28), (-0.8, 0.45, -0.4), 2.3),
        Tube(((-4, 33, -2), (-14, 32, 26)), (19, 14)),
    ),
}
GREAT_VESSELS: dict[str, tuple[Tube, ...]] = {
    "PA": (
        Tube(((-14, 32, 26), (-19, 18, 45), (-22, -3, 55)), (13, 13, 12)),
        Tube(((-20, -5, 54), (10, -22, 50), (46, -30, 44)), (11, 10, 7)),
        Tube(((-22, -5, 55), (-46, -30, 57), (-62, -44, 52)), (11, 9, 7)),
    ),
    "aorta": (Tube(((-5, -8, 7), (4, -3, 20), (13, 2, 45), (14, 0, 66), (9, -8, 78)), (14, 16, 14, 14, 13)),),
}
# Unlabelled, with the blood of the chamber they lead to or come from.
OTHER_VESSELS: dict[str, tuple[Tube, ...]] = {
    "LA": (
        Tube(((-26, -46, 18), (-60, -62, 26)), (8, 6)),
        Tube(((-26, -46, 4), (-58, -62, -8)), (8, 6)),
        Tube(((20, -45, 16), (58, -58, 24)), (8, 6)),
        Tube(((20, -46, 4), (55, -62, -10)), (8, 6)),
    ),
    "RA": (
        Tube(((34, -12, 18), (31, -10, 120)), (10, 9)),
        Tube(((37, -22, -25), (30, -32, -110)), (11, 12)),
    ),
    "aorta": (Tube(((9, -8, 78), (-5, -30, 88), (-16, -62, 80)), (13, 12, 12)),),
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
    """Make the scan of one patient, a function of its arguments alone, whatever was made before it."""
    anatomy, contrast, noise = _generator(patient, modality, seed).spawn(3)
    affine, shape, points = _acquisition_grid(PROTOCOLS[modality], anatomy)
    points += _warp(shape, anatomy)
    values = _ct_values(contrast) if modality == "ct" else _mri_values(contrast)
    edge = PROTOCOLS[modality].pixel[1] * contrast.uniform(1.0, 1.7)
    image, label = _paint([*_chest(points, anatomy), *_heart(points, anatomy)], values, edge)
    acquire = _acquire_ct if modality == "ct" else _acquire_mri
    image = acquire(image.reshape(shape), points.reshape(3, *shape), noise)
    name = _patient_name(patient, modality)
    return PhantomScan(np.rint(image), label.reshape(shape), affine, name, modality)


def write_phantom(out: Path, patients: int = 20, modality: Modality = "ct", seed: int = 0) -> list[Path]:
    """Write the scans of patients 1, 2, … as `out/images/*.nii.gz` and `out/labels/*.nii.gz` of the same names.

    Each file is complete or absent, equal arguments give equal bytes, and a patient whose files are there is not
    made again, so give every seed a folder of its own. Returns the images' paths in order.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(gzip.compress(file.to_bytes(), compresslevel=1, mtime=0))
    unfinished.replace(path)


def _generator(patient: int, modality: Modality, seed: int) -> Generator:
    streams = np.random.SeedSequence([seed, patient, list(PROTOCOLS).index(modality)])
    return np.random.Generator(np.random.Philox(streams))


# --- geometry -----------------------------------------------------------------------------------------------------


def _acquisition_grid(protocol: Protocol, rng: Generator) -> tuple[NDArray[np.float64], tuple[int, int, int], Field]:
    """Draw a field of view: the file's affine, its shape and the voxels' anatomical coordinates (3, N)."""
    pixel = rng.uniform(*protocol.pixel)
    shape = (protocol.size, protocol.size, int(rng.integers(*protocol.slices, endpoint=True)))
    code = protocol.codes[rng.integers(len(protocol.codes))]
    directions = np.zeros((3, 3))
    for axis, letter in enumerate(code):
        directions["LRPAIS".index(letter) // 2, axis] = 1 if letter in "RAS" else -1
    steps = _rotation(rng.uniform(-protocol.tilt, protocol.tilt, 3)) @ directions
    steps = steps * (pixel, pixel, rng.uniform(*protocol.spacing))
    centre = np.array(protocol.focus) + rng.uniform(-6, 6, 3)
    corner = centre - steps @ ((np.array(shape) - 1) / 2)
    indices = np.indices(shape, dtype=np.float32).reshape(3, -1)
    points = steps.astype(np.float32) @ indices + corner[:, None].astype(np.float32)
    table = rng.uniform(-60, 60, 3)  # scanners count mm from the table, not from the patient
    return nib.affines.from_matvec(steps, corner + table), shape, points


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (3, 3) rotation about x, then y, then z."""
    turns = []
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        turns.append(turn)
    return np.asarray(turns[2] @ turns[1] @ turns[0])


def _smooth_field(shape: tuple[int, ...], knots: int, rng: Generator) -> Field:
    """Draw a smooth field of this shape with unit variance, which changes sign about every size/`knots` voxels."""
    field = rng.standard_normal((knots, knots, knots), dtype=np.float32)
    for size in shape:
        at, nodes = np.linspace(0, knots - 1, size)[:, None], np.arange(knots)
        weights = np.exp(-0.5 * ((at - nodes) / 0.7) ** 2)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        field = np.moveaxis(np.tensordot(weights.astype(np.float32), field, axes=(1, 0)), 0, -1)
    return np.ascontiguousarray(field)


def _warp(shape: tuple[int, int, int], rng: Generator) -> Field:
    """Draw displacements (3, N) that take the regularity out of every shape, large ones and small ones."""
    coarse = [_smooth_field(shape, 5, rng).ravel() * 4.0 for _ in range(3)]
    fine = [_smooth_field(shape, 11, rng).ravel() * 1.3 for _ in range(3)]
    return np.asarray(np.stack(coarse) + np.stack(fine), np.float32)


def _distance(shape: Blob | Tube, points: Field) -> Field:
    return _blob_distance(shape, points) if isinstance(shape, Blob) else _tube_distance(shape, points)


def _blob_distance(blob: Blob, points: Field) -> Field:
    along = np.array(blob.axis) / np.linalg.norm(blob.axis)
    side = np.cross((0, 0, 1), along)
    side /= np.linalg.norm(side)
    frame = np.stack([along, side, np.cross(along, side)]) / np.array(blob.radii)[:, None]
    inside = np.abs(frame.astype(np.float32) @ points - (frame @ blob.centre).astype(np.float32)[:, None])
    reach = np.sum(inside**blob.power, axis=0) ** (1 / blob.power)
    return np.asarray((reach - 1) * np.mean(blob.radii), np.float32)


def _tube_distance(tube: Tube, points: Field) -> Field:
    nearest = np.full(points.shape[1], np.inf, np.float32)
    for start, end, r0, r1 in zip(tube.points, tube.points[1:], tube.radii, tube.radii[1:], strict=False):
        step = np.subtract(end, start).astype(np.float32)
        offset = points - np.array(start, np.float32)[:, None]
        at = np.clip(step @ offset / (step @ step), 0, 1)
        offset -= step[:, None] * at
        np.minimum(nearest, np.sqrt(np.sum(offset**2, axis=0)) - (r0 + (r1 - r0) * at), out=nearest)
    return nearest


def _union(shapes: tuple[Blob | Tube, ...], points: Field) -> Field:
    return np.asarray(np.minimum.reduce([_distance(shape, points) for shape in shapes]))


def _vary(shape: Blob | Tube, rng: Generator) -> Blob | Tube:
    """Draw a patient's own version of a shape: moved a little, wider or narrower."""
    return _vary_blob(shape, rng) if isinstance(shape, Blob) else _vary_tube(shape, rng)


def _vary_blob(blob: Blob, rng: Generator) -> Blob:
    a, b, c = np.array(blob.radii) * rng.uniform(0.85, 1.13, 3)
    power = blob.power + rng.uniform(-0.1, 0.5)
    return replace(blob, centre=_add(blob.centre, rng.normal(0, 2, 3)), radii=(a, b, c), power=power)


def _vary_tube(tube: Tube, rng: Generator) -> Tube:
    width, shift = rng.uniform(0.88, 1.12), rng.normal(0, 1.5, 3)
    moved = tuple(_add(point, shift) for point in tube.points)
    return Tube(moved, tuple(radius * width for radius in tube.radii))


def _add(point: Point, shift: NDArray[np.float64]) -> Point:
    x, y, z = np.add(point, shift).tolist()
    return x, y, z


# --- anatomy ------------------------------------------------------------------------------------------------------


def _column(points: Field, centre: Range, radii: Range, power: float = 2.0) -> Field:
    """Signed distance (N,) to an upright superelliptic cylinder."""
    inside = np.abs((points[:2] - np.array(centre, np.float32)[:, None]) / np.array(radii, np.float32)[:, None])
    return np.asarray((np.sum(inside**power, axis=0) ** (1 / power) - 1) * np.mean(radii), np.float32)


def _chest(points: Field, rng: Generator) -> Iterator[Layer]:
    """Paint everything but the heart, from the skin inwards."""
    width, depth = rng.uniform(136, 158), rng.uniform(98, 112)
    fat, wall = rng.uniform(5, 18), rng.uniform(12, 18)
    skin = _column(points, (0, 0), (width, depth), 2.5) + 0.1 * np.maximum(points[2], 0)
    yield Layer("fat", skin)
    yield Layer("muscle", skin + fat)
    cavity = skin + fat + wall
    yield Layer("lung", cavity)
    yield from _ribs(points, cavity - wall / 2 + 1, rng)
    yield from _lung_vessels(points, cavity, rng)
    yield Layer("mediastinum", _column(points, (0, 0), (rng.uniform(16, 26), depth - fat - wall + 2)))
    yield from _abdomen(points, cavity, rng)
    yield from _spine(points, -depth + fat + 24, rng)
    yield from _airways(points)
    sternum = (rng.normal(0, 2), depth - fat - 9, 15.0)
    yield Layer("bone", _blob_distance(Blob(sternum, (17, 6, 95)), points))
    yield Layer("marrow", _blob_distance(Blob(sternum, (13, 3, 92)), points))


def _ribs(points: Field, middle: Field, rng: Generator) -> Iterator[Layer]:
    """Ribs slope downwards to the front, so an axial slice cuts each of them in a short piece."""
    period, phase = rng.uniform(24, 30), rng.uniform(0, 1)
    level = (points[2] + 0.55 * points[1]) / period + phase
    across = np.abs(level - np.rint(level)) * period - 6
    yield Layer("bone", np.maximum(np.abs(middle) - 4, across))
    yield Layer("marrow", np.maximum(np.abs(middle) - 1.5, across + 3))


def _lung_vessels(points: Field, cavity: Field, rng: Generator) -> Iterator[Layer]:
    for side in (-1, 1):
        for _ in range(8):
            angle, height = rng.uniform(-np.pi / 2, np.pi / 2), rng.uniform(-50, 70)
            bend = (side * (60 + 15 * np.cos(angle)), -20 + 30 * np.sin(angle), 15 + height / 2)
            end = (side * (70 + 45 * np.cos(angle)), -15 + 70 * np.sin(angle), 10 + height)
            branch = Tube(((side * 35.0, -22.0, 25.0), bend, end), (5, 3.5, 1.5))
            yield Layer("muscle", np.maximum(_tube_distance(branch, points), cavity + 4))


def _abdomen(points: Field, cavity: Field, rng: Generator) -> Iterator[Layer]:
    """Liver under the domes of the diaphragm, and on the left a stomach with its gas bubble."""
    x, y, z = points
    top, lean = rng.uniform(-42, -26), rng.uniform(6, 16)
    right = top - 26 * ((x - 62) / 75) ** 2 - 22 * (y / 80) ** 2
    left = top - lean - 26 * ((x + 70) / 65) ** 2 - 22 * (y / 80) ** 2
    below = np.maximum(z - np.maximum(right, left), cavity)
    yield Layer("liver", below)
    stomach = Blob((-58, 12, top - lean - 36), (38, 34, 27))
    inside = _blob_distance(stomach, points)
    yield Layer("muscle", inside)
    yield Layer("mediastinum", inside + 5)
    yield Layer("air", np.maximum(inside + 5, 20 - y))


def _spine(points: Field, back: float, rng: Generator) -> Iterator[Layer]:
    period, phase = rng.uniform(24, 29), rng.uniform(0, 1)
    level = points[2] / period + phase
    disc = 3.5 - np.abs(level - np.rint(level)) * period
    vertebra = _column(points, (0, back), (18, 15), 2.3)
    process = _column(points, (0, back - 26), (5, 16))
    yield Layer("muscle", _column(points, (0, back - 14), (52, 22), 2.5))
    yield Layer("bone", np.minimum(vertebra, _column(points, (0, back - 14), (30, 7))))
    yield Layer("bone", process)
    yield Layer("marrow", np.maximum(vertebra + 3, disc))
    yield Layer("muscle", np.maximum(vertebra + 1, -disc))
    yield Layer("fat", _column(points, (0, back - 20), (9, 7)))
    yield Layer("muscle", _column(points, (0, back - 20), (5, 4)))
    yield Layer("aorta", _column(points, (-24 + rng.normal(0, 3), back + 16), (12.5, 12.5)))
    yield Layer("muscle", _column(points, (-4, back + 26), (8, 5)))  # the oesophagus


def _airways(points: Field) -> Iterator[Layer]:
    fork = (3.0, -30.0, 62.0)
    for end in ((3.0, -22.0, 130.0), (40.0, -36.0, 38.0), (-42.0, -40.0, 42.0)):
        yield Layer("muscle", _tube_distance(Tube((fork, end), (10, 8)), points))
        yield Layer("air", _tube_distance(Tube((fork, end), (7.5, 5.5)), points))


def _heart(points: Field, rng: Generator) -> Iterator[Layer]:
    """Paint the heart in its sack, thin walls before the blood they enclose, so that neighbours keep a septum."""
    turn = _rotation(rng.uniform(-1, 1, 3) * (7, 8, 12))
    scale = rng.uniform(0.95, 1.18)
    centre = rng.normal((-6, 17, 0), (4, 3, 4))
    frame = (turn.T / scale).astype(np.float32) @ (points - centre.astype(np.float32)[:, None])

    def distances(table: Mapping[str, tuple[Blob | Tube, ...]]) -> dict[str, Field]:
        return {k: _union(tuple(_vary(s, rng) for s in v), frame) * np.float32(scale) for k, v in table.items()}

    cavity, muscle = _left_ventricle(frame, scale, rng)
    chambers, vessels = distances(CHAMBERS), distances(GREAT_VESSELS)
    wall = np.asarray(np.minimum.reduce([*chambers.values()])) - np.float32(rng.uniform(1.5, 3.5))
    yield Layer("fat", np.minimum(wall, muscle) - np.float32(rng.uniform(1, 6)))
    for blood, distance in distances(OTHER_VESSELS).items():
        yield Layer(blood, distance)
    yield Layer("myocardium", wall)
    for name, distance in (chambers | {"PA": vessels["PA"]}).items():
        yield Layer(name, distance, LABELS[name])
    yield Layer("myocardium", muscle, LABELS["myocardium"])
    yield Layer("LV", cavity, LABELS["LV"])
    yield Layer("aorta", vessels["aorta"], LABELS["aorta"])


def _left_ventricle(frame: Field, scale: float, rng: Generator) -> tuple[Field, Field]:
    """Return the signed distances (N,) to the cavity and to the muscle around it, both open at the mitral valve."""
    blob = _vary_blob(LV, rng)
    axis = (np.array(blob.axis) / np.linalg.norm(blob.axis)).astype(np.float32)
    base = axis @ np.array(blob.centre, np.float32) - 0.7 * blob.radii[0]
    open_end = (base - axis @ frame) * scale
    bulge = _blob_distance(blob, frame) * scale
    thickness = rng.uniform(7, 13)
    cavity, muscle = np.maximum(bulge, open_end), np.maximum(bulge - thickness, open_end - 2)
    return cavity.astype(np.float32), muscle.astype(np.float32)


# --- image --------------------------------------------------------------------------------------------------------


def _paint(layers: list[Layer], values: dict[str, float], edge: float) -> tuple[Field, NDArray[np.uint16]]:
    """Paint the layers in order; a voxel nearer than `edge`/2 to a border is a mixture (partial volume)."""
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
    image = image + rng.uniform(6, 20) * _smooth_field(image.shape, 14, rng)
    grain = _soften(rng.standard_normal(image.shape, dtype=np.float32), 0.15)
    image += np.float32(rng.uniform(30, 90)) * grain
    if rng.random() < 0.35:
        image += _streaks(points, rng)
    return np.clip(image, -1024, 3071)


def _streaks(points: Field, rng: Generator) -> NDArray[np.float32]:
    """Rays from dense contrast medium in the superior vena cava, at the heights where it flows in."""
    x, y, z = points[0] - 25, points[1] - 5, points[2] - rng.uniform(20, 60)
    angle, reach = np.arctan2(y, x), np.hypot(x, y)
    rays = np.cos(angle * rng.integers(5, 9) + rng.uniform(0, 6)) + np.cos(angle * rng.integers(11, 17))
    fade = np.exp(-reach / 60 - (z / 22) ** 2)
    return np.asarray(rng.uniform(40, 110) * rays * fade, np.float32)


def _acquire_mri(image: NDArray[np.float32], points: Field, rng: Generator) -> NDArray[np.float32]:
    """Add the coil's bias field, the receiver's gain and Rician noise."""
    image = image * (1 + np.float32(rng.uniform(0.03, 0.10)) * _smooth_field(image.shape, 14, rng))
    coil = points[1] / 200 + 0.5 * _smooth_field(image.shape, 4, rng)
    image = image * np.exp(np.float32(rng.uniform(0.1, 0.3)) * coil)
    spread = np.float32(rng.uniform(8, 22))
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * spread
    return np.asarray(np.hypot(image + _soften(real, 0.1), imaginary) * rng.uniform(0.6, 2.5), np.float32)
