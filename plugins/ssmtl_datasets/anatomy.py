"""The chest and the heart of the phantom, as layers of tissue painted over each other.

All lengths are in mm. Anatomy uses RAS+ coordinates (x to the right, y to the front, z upwards) whose origin is the
middle of the chest at the height of the heart; the heart has its own frame with the same directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from ssmtl_datasets.shapes import (
    Blob,
    Field,
    Point,
    Range,
    Tube,
    blob_distance,
    rotation,
    tube_distance,
    union,
    vary,
    vary_blob,
)

LABELS = {"LV": 500, "RV": 600, "LA": 420, "RA": 550, "myocardium": 205, "aorta": 820, "PA": 850}

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


@dataclass(frozen=True)
class Layer:
    """A tissue painted over what lies below: its signed distance (N,) is negative inside."""

    tissue: str
    distance: Field
    label: int = 0


def _column(points: Field, centre: Range, radii: Range, power: float = 2.0) -> Field:
    """Signed distance (N,) to an upright superelliptic cylinder."""
    inside = np.abs((points[:2] - np.array(centre, np.float32)[:, None]) / np.array(radii, np.float32)[:, None])
    return np.asarray((np.sum(inside**power, axis=0) ** (1 / power) - 1) * np.mean(radii), np.float32)


def chest(points: Field, rng: Generator) -> Iterator[Layer]:
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
    yield Layer("bone", blob_distance(Blob(sternum, (17, 6, 95)), points))
    yield Layer("marrow", blob_distance(Blob(sternum, (13, 3, 92)), points))


def _ribs(points: Field, middle: Field, rng: Generator) -> Iterator[Layer]:
    """Paint ribs that slope downwards to the front, so an axial slice cuts a short piece out of each."""
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
            yield Layer("muscle", np.maximum(tube_distance(branch, points), cavity + 4))


def _abdomen(points: Field, cavity: Field, rng: Generator) -> Iterator[Layer]:
    """Paint the liver under the domes of the diaphragm, and on the left a stomach with its gas bubble."""
    x, y, z = points
    top, lean = rng.uniform(-42, -26), rng.uniform(6, 16)
    right = top - 26 * ((x - 62) / 75) ** 2 - 22 * (y / 80) ** 2
    left = top - lean - 26 * ((x + 70) / 65) ** 2 - 22 * (y / 80) ** 2
    below = np.maximum(z - np.maximum(right, left), cavity)
    yield Layer("liver", below)
    stomach = Blob((-58, 12, top - lean - 36), (38, 34, 27))
    inside = blob_distance(stomach, points)
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
        yield Layer("muscle", tube_distance(Tube((fork, end), (10, 8)), points))
        yield Layer("air", tube_distance(Tube((fork, end), (7.5, 5.5)), points))


def heart(points: Field, rng: Generator) -> Iterator[Layer]:
    """Paint the heart in its sac, thin walls before the blood they enclose, so that neighbours keep a septum."""
    turn = rotation(rng.uniform(-1, 1, 3) * (7, 8, 12))
    scale = rng.uniform(0.95, 1.18)
    centre = rng.normal((-6, 17, 0), (4, 3, 4))
    frame = (turn.T / scale).astype(np.float32) @ (points - centre.astype(np.float32)[:, None])

    def distances(table: Mapping[str, tuple[Blob | Tube, ...]]) -> dict[str, Field]:
        return {k: union(tuple(vary(s, rng) for s in v), frame) * np.float32(scale) for k, v in table.items()}

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
    blob = vary_blob(LV, rng)
    axis = (np.array(blob.axis) / np.linalg.norm(blob.axis)).astype(np.float32)
    base = axis @ np.array(blob.centre, np.float32) - 0.7 * blob.radii[0]
    open_end = (base - axis @ frame) * scale
    bulge = blob_distance(blob, frame) * scale
    thickness = rng.uniform(7, 13)
    cavity, muscle = np.maximum(bulge, open_end), np.maximum(bulge - thickness, open_end - 2)
    return cavity.astype(np.float32), muscle.astype(np.float32)
