"""Lists scans below a folder: every regular file once, in one order, links and loops included."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib

from ssmtl_toolkit.data.files import real
from ssmtl_toolkit.data.finding import Found, find, parts_of
from ssmtl_toolkit.data.volume import acquired_axis, stepped_axis
from ssmtl_toolkit.engine.folder import PREDICTION
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.names import printable
from ssmtl_toolkit.specs import ReadableTest, Scan

_IMAGE_FOLDERS = ("images", "imagesTr")
_SUFFIX = re.compile(r"(\.nii|\.hdr)?(\.gz)?$|\.[A-Za-z0-9]{1,5}$", re.IGNORECASE)
_LABEL = re.compile(r"(^|[-_.])(labels?|seg|dseg|segmentation|masks?|gt)([-_](manual|auto))?", re.IGNORECASE)
_MMWHS = re.compile(r"(ct|mr)_(train|test)_(\d+)_image\.nii(\.gz)?", re.IGNORECASE)


def list_scans(root: Path, readable: ReadableTest) -> list[Scan]:
    """All that readers are meant for below `root`, and `root` itself; `labels/` has the labels of the same names."""
    if root.is_file():
        return [replace(_scan(Found(root, root), root.parent), named=True)]
    _check(root)
    images = next((root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()), None)
    if images is not None:
        if readable(images):
            inside = f"{printable(images)}/CASE/"
            raise DataError(
                f"{printable(images)}: holds slices; put those of each scan into a folder of its own, {inside}"
            )
        found = [_scan(one, images) for one in find(images, readable)]
        scans = _paired(found, root / images.name.replace("images", "labels"), readable)
    else:
        own = [_scan(one, root.parent) for one in parts_of(root, readable)] if readable(root) else []
        scans = own + [_unless_label(_scan(one, root), root) for one in find(root, readable)]
    if not scans:
        raise DataError(
            f"{printable(root)}: no scan found in this folder; expected files such as .nii.gz, .nrrd or .mha, "
            f"or folders of DICOM or PNG slices"
        )
    return scans


def _paired(scans: list[Scan], labels: Path, readable: ReadableTest) -> list[Scan]:
    """Give each scan the label of the same name (its suffix may differ), and name the labels that are left over."""
    there = find(labels, readable) if scans and labels.is_dir() else ()
    found = {scan.name: scan.path for scan in (_scan(one, labels) for one in there)}
    paired = [replace(scan, label=found.pop(scan.name, None)) for scan in scans]
    return paired + [
        Scan(file, name, name, unfit=f"{printable(file)}: a label without an image of the same name in images/")
        for name, file in found.items()
    ]


def _unless_label(scan: Scan, root: Path) -> Scan:
    """Mark what is a label map by its name (`x_label`, `x_seg`, `x-mask`) or folder (`labels…`), or a prediction."""
    if scan.unfit:
        return scan
    folders = scan.path.relative_to(root).parts[:-1]
    named = _LABEL.search(Path(scan.name).name)
    label = (named and named.end() == len(Path(scan.name).name)) or any(f.lower().startswith("labels") for f in folders)
    reason = ""
    if label:
        reason = "a label map by its name, not a scan; give it alone if it is one"
    elif scan.path.parent != root and (scan.path.parent / PREDICTION).is_file():
        reason = f"lies beside a {PREDICTION}: a prediction, not a scan; give that folder if these are scans"
    return replace(scan, unfit=reason and f"{printable(scan.path)}: {reason}")


def list_mmwhs(root: Path, modality: str, test: bool, readable: ReadableTest) -> list[Scan]:
    """The training images of one modality below `root`, by number, and with `test` the unlabelled test ones too."""
    _check(root)
    found = []
    for file in walk(root, readable):
        match = _MMWHS.fullmatch(file.name)
        if match and match[1].lower() == modality and (test or match[2].lower() == "train"):
            label = file.with_name(re.sub("_image", "_label", file.name, flags=re.IGNORECASE))
            found.append(Scan(file, f"{modality}_{match[3]}", f"{modality}_{match[3]}", modality, _there(label)))
    if not found:
        raise DataError(
            f"{printable(root)}: no MM-WHS scan of modality {modality!r} found; expected names such as "
            f"{modality}_train_1001_image.nii.gz"
        )
    return sorted(found, key=lambda scan: scan.name)


def unless_acquired(scan: Scan, axis: str) -> Scan:
    """Mark a NIfTI scan as unfit whose header says that it was acquired along another anatomical axis.

    What cannot be read is left to the reader, which says what is wrong.
    """
    try:
        image: Any = nib.load(scan.path)
        zooms = tuple(float(z) for z in image.header.get_zooms()[:3])
        found = acquired_axis(image.affine, stepped_axis(zooms, image.header.get_dim_info()[2]))
    except (DataError, nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error):
        return scan
    if found == axis:
        return scan
    return replace(scan, unfit=f"{printable(scan.path)}: was acquired along the {found} axis, {axis} is wanted")


def walk(folder: Path, readable: ReadableTest) -> Iterator[Path]:
    """Every file or folder below `folder` that a reader is meant for, in the order of names."""
    yield from dict.fromkeys(found.holder for found in find(folder, readable))


def _check(root: Path) -> None:
    if not root.exists():
        raise DataError(f"{printable(root)}: no such file or folder; check its path")
    if not root.is_dir():
        raise DataError(f"{printable(root)}: is neither a file nor a folder; check its path")


def _scan(found: Found, root: Path) -> Scan:
    """Name a scan by its path below `root`, and in a folder of several by its own name; their patient is the folder."""
    holder = found.holder if found.holder.name not in ("", "..") else real(found.holder)
    relative = holder.relative_to(root) if found.holder == holder else Path(holder.name)
    if not found.holder.is_dir():
        relative = relative.with_name(stem(relative.name))
    return Scan(found.path, printable(relative / found.part), printable(relative), unfit=found.unfit)


def stem(name: str) -> str:
    """The name of a file without its suffix, `.nii.gz` and the like as a whole."""
    return _SUFFIX.sub("", name) or name


def _there(label: Path) -> Path | None:
    return label if label.is_file() else None
