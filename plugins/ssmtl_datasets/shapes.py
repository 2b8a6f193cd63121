"""Shapes of the phantom as signed distances: superellipsoids, tubes, and the fields that bend them; lengths in mm."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.float32]  # (N,) one value per voxel, or (3, N) one point per voxel
Point = tuple[float, float, float]
Range = tuple[float, float]


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


def rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (3, 3) rotation about x, then y, then z."""
    turns = []
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        turns.append(turn)
    return np.asarray(turns[2] @ turns[1] @ turns[0])


def smooth_field(shape: tuple[int, ...], knots: int, rng: Generator) -> Field:
    """Draw a smooth field of this shape with unit variance, which changes sign about every size/`knots` voxels."""
    field = rng.standard_normal((knots, knots, knots), dtype=np.float32)
    for size in shape:
        at, nodes = np.linspace(0, knots - 1, size)[:, None], np.arange(knots)
        weights = np.exp(-0.5 * ((at - nodes) / 0.7) ** 2)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        field = np.moveaxis(np.tensordot(weights.astype(np.float32), field, axes=(1, 0)), 0, -1)
    return np.ascontiguousarray(field)


def warp(shape: tuple[int, int, int], rng: Generator) -> Field:
    """Draw displacements (3, N) that make every shape, large or small, irregular."""
    coarse = [smooth_field(shape, 5, rng).ravel() * 4.0 for _ in range(3)]
    fine = [smooth_field(shape, 11, rng).ravel() * 1.3 for _ in range(3)]
    return np.asarray(np.stack(coarse) + np.stack(fine), np.float32)


def _distance(shape: Blob | Tube, points: Field) -> Field:
    return blob_distance(shape, points) if isinstance(shape, Blob) else tube_distance(shape, points)


def blob_distance(blob: Blob, points: Field) -> Field:
    along = np.array(blob.axis) / np.linalg.norm(blob.axis)
    side = np.cross((0, 0, 1), along)
    side /= np.linalg.norm(side)
    frame = np.stack([along, side, np.cross(along, side)]) / np.array(blob.radii)[:, None]
    inside = np.abs(frame.astype(np.float32) @ points - (frame @ blob.centre).astype(np.float32)[:, None])
    reach = np.sum(inside**blob.power, axis=0) ** (1 / blob.power)
    return np.asarray((reach - 1) * np.mean(blob.radii), np.float32)


def tube_distance(tube: Tube, points: Field) -> Field:
    nearest = np.full(points.shape[1], np.inf, np.float32)
    for start, end, r0, r1 in zip(tube.points, tube.points[1:], tube.radii, tube.radii[1:], strict=False):
        step = np.subtract(end, start).astype(np.float32)
        offset = points - np.array(start, np.float32)[:, None]
        at = np.clip(step @ offset / (step @ step), 0, 1)
        offset -= step[:, None] * at
        np.minimum(nearest, np.sqrt(np.sum(offset**2, axis=0)) - (r0 + (r1 - r0) * at), out=nearest)
    return nearest


def union(shapes: tuple[Blob | Tube, ...], points: Field) -> Field:
    return np.asarray(np.minimum.reduce([_distance(shape, points) for shape in shapes]))


def vary(shape: Blob | Tube, rng: Generator) -> Blob | Tube:
    """Draw a patient's own version of a shape: moved a little, wider or narrower."""
    return vary_blob(shape, rng) if isinstance(shape, Blob) else _vary_tube(shape, rng)


def vary_blob(blob: Blob, rng: Generator) -> Blob:
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
