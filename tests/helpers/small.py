"""Scans made on the spot, small enough to train on in a second, and a network of their size."""

from pathlib import Path

import nibabel as nib
import numpy as np


def blobs(slices: int, height: int = 24, width: int = 20, seed: int = 0) -> np.ndarray:
    """A volume (I, J, K) with structure: a bright ball that drifts and grows along K, and noise."""
    rng = np.random.default_rng(seed)
    y, x, z = np.mgrid[:height, :width, :slices].astype(float)
    place = rng.uniform(0.3, 0.7, 2)
    distance = np.hypot(y - height * place[0] - z / 3, x - width * place[1])
    return (1000 * np.exp(-((distance / (3 + z / 4)) ** 2)) + rng.normal(0, 30, y.shape)).astype(np.int16)


def write_scan(file: Path, slices: int = 12, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(blobs(slices, seed=seed), np.diag([0.8, 0.8, 2.0, 1.0])), file)
    return file


def ball(slices: int, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """A volume (I, J, K) with a bright ball and a dimmer one beside it in noise, and the label map: 10 and 20."""
    rng = np.random.default_rng(seed)
    y, x, z = np.mgrid[:size, :size, :slices].astype(float)
    cy, cx = rng.uniform(0.4, 0.6, 2) * size
    depth = (z - slices / 2) * size / slices / 1.5
    first = (y - cy) ** 2 + (x - cx + 5) ** 2 + depth**2 < (size / 5) ** 2
    second = (y - cy) ** 2 + (x - cx - 7) ** 2 + depth**2 < (size / 7) ** 2
    image = 100 * first + 50 * (second & ~first) + rng.normal(0, 10, y.shape)
    return image.astype(np.float32), (10 * first + 20 * (second & ~first)).astype(np.uint8)


def write_pair(root: Path, name: str, slices: int = 10, seed: int = 0, affine: np.ndarray | None = None) -> Path:
    """Write images/NAME.nii.gz and labels/NAME.nii.gz below `root`; return the image's path."""
    image, label = ball(slices, seed)
    affine = np.diag([-0.8, -0.8, 2.0, 1.0]) if affine is None else affine
    for folder, array in (("images", image), ("labels", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), root / folder / f"{name}.nii.gz")
    return root / "images" / f"{name}.nii.gz"


SMALL = "unet:encoder=plain,width=8"


def write_channels(folder: Path, name: str, slices: int = 12, seed: int = 0, channels: int = 2) -> list[Path]:
    """Write NAME_0000.nii.gz and so on, the channels of one scan: each shows the ball in its own way and noise."""
    folder.mkdir(parents=True, exist_ok=True)
    image = blobs(slices, 24, 24, seed).astype(np.float32)
    files = [folder / f"{name}_{channel:04d}.nii.gz" for channel in range(channels)]
    for channel, file in enumerate(files):
        noise = np.random.default_rng((seed, channel)).normal(0, 30, image.shape)
        shown = ((1 - 2 * (channel % 2)) * image + noise + 200 * channel).astype(np.int16 if channel else np.float32)
        nib.save(nib.Nifti1Image(shown, np.diag([0.8, 0.8, 2.0, 1.0])), file)
    return files


def write_labelled_channels(root: Path, names: str, slices: int = 8) -> Path:
    """Write images/NAME_0000.nii.gz (bright balls), NAME_0001.nii.gz (dark ones) and labels/NAME.nii.gz for each name.

    Returns the manifest that lists them, root/scans.csv.
    """
    rows = ["image,image_2,label,patient"]
    for seed, name in enumerate(names):
        image, label = ball(slices, seed)
        noise = np.random.default_rng(seed + 100).normal(0, 10, image.shape)
        arrays = {
            f"images/{name}_0000.nii.gz": image,
            f"images/{name}_0001.nii.gz": (300 - 0.5 * image + noise).astype(np.int16),
            f"labels/{name}.nii.gz": label,
        }
        for file, array in arrays.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-0.8, -0.8, 2.0, 1.0])), root / file)
        rows.append(f"{','.join(arrays)},{name}")
    (root / "scans.csv").write_text("\n".join(rows))
    return root / "scans.csv"
