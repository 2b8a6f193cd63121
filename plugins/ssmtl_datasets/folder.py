"""Lists scans below a folder: every regular file once, in one order, links and loops included."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib

from ssmtl_datasets.channels import Channel, joined
from ssmtl_datasets.naming import is_image_folder, is_label_file, label_folder, stem, tells_case
from ssmtl_datasets.pairing import once, paired, referenced
from ssmtl_toolkit.data.files import real
from ssmtl_toolkit.data.finding import PREDICTION, Found, find, parts_of
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.volume import acquired_axis, stepped_axis
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

_MMWHS = re.compile(r"(ct|mr)_(train|test)_(\d+)_image\.nii(\.gz)?", re.IGNORECASE)


def list_scans(root: Path, readers: Readers, channel: Channel = 0) -> list[Scan]:
    """List all readable scans below `root`, and `root` itself; label maps beside images are paired with them.

    If cases have several channels (CASE_0000, … beside label maps CASE), only `channel` is used; "all" makes one scan
    of each case, labelled or not.
    """
    if root.is_file():
        return [replace(_scan(Found(root, root), root.parent), named=True)]
    _check(root)
    images, labels = _folders(root, readers)
    scans = _everything(root, readers, channel) if images is None else _below(images, labels, readers, channel)
    if not scans:
        raise DataError(
            f"{printable(root)}: no scan found in this folder; expected files such as .nii.gz, .nrrd or .mha, "
            f"or folders of DICOM, PNG, JPEG or TIFF slices"
        )
    return referenced(scans, readers)


def _folders(root: Path, readers: Readers) -> tuple[Path | None, list[Path]]:
    """Return the folder of images in `root`, if there is one, and those that may hold their label maps."""
    below = _subfolders(root)
    holds = {folder: label_folder(folder.name) for folder in below}
    labels = [f for f in below if holds[f] == "labels"] or [f for f in below if holds[f] == "perhaps"]
    images = next((root / name for name in ("images", "imagesTr") if (root / name).is_dir()), None)
    if images is not None:
        own = root / images.name.replace("images", "labels")
        return images, [own] if own in below else labels
    like = [folder for folder in below if is_image_folder(folder.name)]
    if len(like) == len(labels) == 1:
        inside = {*like, *labels}
        if not any(inside.isdisjoint(s.holder.parents) and s.holder not in inside for s in find(root, readers)):
            return like[0], labels
    return None, []


def _subfolders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{printable(root)}: the folder cannot be read ({error.strerror})") from error


def _below(images: Path, folders: list[Path], readers: Readers, channel: Channel) -> list[Scan]:
    """Return the scans in a folder of images, with label maps from the one folder beside it that has them."""
    if readers.can_read(images):
        inside = f"{printable(images)}/CASE/"
        raise DataError(f"{printable(images)}: holds slices; put those of each scan into a folder of its own, {inside}")
    scans = once([_scan(found, images) for found in find(images, readers)])
    if not scans:
        return []
    if channel == "all":
        scans = joined(scans, images)
    if len(folders) > 1:
        candidates = " and ".join(f"{printable(folder.name)}/" for folder in folders)
        reason = f"{candidates} may hold the label maps; rename the right one to labels/"
        scans.append(Scan(images.parent, "labels", "labels", unfit=f"{printable(images.parent)}: {reason}"))
    elif folders:
        labels = once([_scan(found, folders[0]) for found in find(folders[0], readers)])
        pairs = paired(scans, labels, images, channel)
        if any(scan.label for scan in pairs) or label_folder(folders[0].name) == "labels":
            scans = pairs
        else:
            folders = []
    if not any(scan.label for scan in scans):
        scans += _unused(images, folders, readers)
    return _without_label_maps(scans)


def _without_label_maps(scans: list[Scan]) -> list[Scan]:
    """Mark label maps among images by their names, if they have no label map themselves and others are images."""
    named = [not scan.unfit and scan.label is None and is_label_file(scan.path.name) for scan in scans]
    if all(label or scan.unfit for label, scan in zip(named, scans, strict=True)):
        return scans
    return [_label_map(scan) if label else scan for scan, label in zip(scans, named, strict=True)]


def _label_map(scan: Scan, folder: str = "") -> Scan:
    where = f" (in {printable(folder)}/)" if folder else ""
    reason = f"a label map by its name{where}, not a scan; give it by itself if it is a scan"
    return replace(scan, unfit=f"{printable(scan.path)}: {reason}")


def _unused(images: Path, labels: list[Path], readers: Readers) -> Iterator[Scan]:
    """Yield what else lies beside a folder of images without label maps."""
    for folder in _subfolders(images.parent):
        if folder in (images, *labels) or (folder / PREDICTION).is_file():
            continue
        if readers.can_read(folder) or next(find(folder, readers), None):
            reason = f"is ignored because of {printable(images.name)}/ beside it; put label maps into labels/"
            yield Scan(folder, folder.name, folder.name, unfit=f"{printable(folder)}: {reason}")


def _everything(root: Path, readers: Readers, channel: Channel) -> list[Scan]:
    whole = readers.can_read(root) and readers.label_rank(root) is None
    own = [_scan(found, root.parent) for found in parts_of(root, readers)] if whole else []
    scans = own + once(_unless_labels(root, list(find(root, readers))))
    return joined(scans, root) if channel == "all" and scans else scans


def _unless_labels(root: Path, candidates: list[Found]) -> list[Scan]:
    """Mark label maps, by name or folder, and predictions."""
    doubtful: dict[Path, list[int]] = defaultdict(list)
    scans = []
    for i, found in enumerate(candidates):
        scan = _scan(found, root)
        folder, sure = _label_folder(found, root)
        if not scan.unfit and (sure or is_label_file(found.holder.name)):
            scan = _label_map(scan, folder.name if folder else "")
        elif not scan.unfit and found.holder.parent != root and (found.holder.parent / PREDICTION).is_file():
            reason = f"lies beside a {PREDICTION}: a prediction, not a scan; give that folder itself if these are scans"
            scan = replace(scan, unfit=f"{printable(scan.path)}: {reason}")
        elif folder:
            doubtful[folder].append(i)
        scans.append(scan)
    return _settled(scans, doubtful)


def _label_folder(found: Found, root: Path) -> tuple[Path | None, bool]:
    """Return the folder between `root` and a scan whose name stands for label maps, and whether that is certain."""
    is_folder = found.holder.is_dir()
    between = [found.holder, *found.holder.parents] if is_folder else list(found.holder.parents)
    perhaps = None
    for folder in between[: between.index(root)]:
        holds = label_folder(folder.name)
        if holds == "labels" and not (is_folder and folder.name.lower() == "instances"):  # DICOM's word too
            return folder, True
        perhaps = folder if holds else perhaps
    return perhaps, False


def _settled(scans: list[Scan], doubtful: dict[Path, list[int]]) -> list[Scan]:
    """Decide about folders that may hold label maps: they do if scans outside have the same names as those inside."""
    inside = {i for members in doubtful.values() for i in members}
    outside = {scan.path.name for i, scan in enumerate(scans) if i not in inside and not scan.unfit}
    outside = {stem(name) for name in outside if tells_case(name)}
    for folder, members in doubtful.items():
        if outside & {stem(scans[i].path.name) for i in members}:
            for i in members:
                scans[i] = _label_map(scans[i], folder.name)
    return scans


def list_mmwhs(root: Path, modality: str, test: bool, readers: Readers) -> list[Scan]:
    """List the training images of one modality below `root`, by number; with `test` the unlabelled test images too."""
    _check(root)
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


def walk(folder: Path, readers: Readers) -> Iterator[Path]:
    """Yield every readable file or folder below `folder`, in the order of names."""
    yield from dict.fromkeys(found.holder for found in find(folder, readers))


def _check(root: Path) -> None:
    if not root.exists():
        raise DataError(f"{printable(root)}: no such file or folder; check its path")
    if not root.is_dir():
        raise DataError(f"{printable(root)}: is neither a file nor a folder; check its path")


def _scan(found: Found, root: Path) -> Scan:
    """Name a scan by its path below `root` and, if a folder holds several, its own name; the folder is the patient."""
    holder = found.holder if found.holder.name not in ("", "..") else real(found.holder)
    relative = holder.relative_to(root) if found.holder == holder else Path(holder.name)
    if not found.holder.is_dir():
        relative = relative.with_name(stem(relative.name))
    return Scan(found.path, printable(relative / found.part), printable(relative), unfit=found.unfit)


def _if_file(label: Path) -> Path | None:
    return label if label.is_file() else None
