"""Scans in time made on the spot: a ball that contracts and widens again, at each position by another amount."""

from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.diag([-0.9, 0.8, 8.0, 1.0])
MS = 40.0


def cine(frames: int = 10, slices: int = 3, size: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (I, J, K, T) float32, and the label map: 1 within the ball."""
    rng = np.random.default_rng(seed)
    x, y, z, t = np.mgrid[: size + 2, :size, :slices, :frames].astype(float)
    place = rng.uniform(0.42, 0.58, 2) * size
    radius = size / 4 * (1 - 0.35 * np.sin(np.pi * t / frames)) * (1 - 0.15 * np.abs(z - (slices - 1) / 2))
    inside = np.hypot(x - place[0], y - place[1]) < radius
    return (100 * inside + 3 * z + rng.normal(0, 10, x.shape)).astype(np.float32), inside.astype(np.uint8)


def write_4d(file: Path, array: np.ndarray, ms: float = MS, unit: str = "msec", affine: np.ndarray = AFFINE) -> Path:
    """Write voxels (I, J, K, T), `ms` apart in this unit as stored."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = ms
    nib.save(image, file)
    return file


def write_cine(root: Path, names: str, frames: int = 10, slices: int = 3, labelled: tuple[int, ...] = ()) -> Path:
    """Write images/NAME.nii.gz and labels/NAME.nii.gz for each name; only these frames have labels, if some are given.

    Returns the folder.
    """
    for seed, name in enumerate(names):
        image, label = cine(frames, slices, seed=seed)
        if labelled:
            label[..., [t for t in range(frames) if t not in labelled]] = 0
        write_4d(root / "images" / f"{name}.nii.gz", image)
        write_4d(root / "labels" / f"{name}.nii.gz", label)
    return root
