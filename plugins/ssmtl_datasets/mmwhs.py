"""MM-WHS by its file names: the images of one modality, with their label maps."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib

from ssmtl_datasets.folder import check, walk
from ssmtl_datasets.pairing import once
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.volume import acquired_axis, stepped_axis
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

_MMWHS = re.compile(r"(ct|mr)_(train|test)_(\d+)_image\.nii(\.gz)?", re.IGNORECASE)


def list_mmwhs(root: Path, modality: str, test: bool, readers: Readers) -> list[Scan]:
    """List the training images of one modality below `root`, by number; with `test` the unlabelled test images too."""
    check(root)
    scans = []
    for file in walk(root, readers):
        match = _MMWHS.fullmatch(file.name)
        if match and match[1].lower() == modality and (test or match[2].lower() == "train"):
            label = file.with_name(re.sub("_image", "_label", file.name, flags=re.IGNORECASE))
            scans.append(Scan(file, f"{modality}_{match[3]}", f"{modality}_{match[3]}", modality, _if_file(label)))
    if not scans:
        raise DataError(
            f"{printable(root)}: no MM-WHS scan of modality {modality!r} found; expected names such as "
            f"{modality}_train_1001_image.nii.gz"
        )
    return once(sorted(scans, key=lambda scan: scan.name))


def unless_acquired(scan: Scan, axis: str) -> Scan:
    """Mark a NIfTI scan as unfit if its header says that it was acquired along another anatomical axis.

    A file that cannot be read is left to its reader, which reports what is wrong.
    """
    try:
        image: Any = nib.load(scan.path)
        zooms = tuple(float(z) for z in image.header.get_zooms()[:3])
        acquired = acquired_axis(image.affine, stepped_axis(zooms, image.header.get_dim_info()[2]))
    except (DataError, nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error):
        return scan
    if acquired == axis:
        return scan
    return replace(scan, unfit=f"{printable(scan.path)}: was acquired along the {acquired} axis, not the {axis} one")


def _if_file(label: Path) -> Path | None:
    return label if label.is_file() else None
