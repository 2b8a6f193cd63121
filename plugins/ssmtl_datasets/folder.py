"""Lists scans below a folder: every regular file once, in one order, links and loops included."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from ssmtl_datasets.channels import Choice, by_number, contrast_of, joined, numbered
from ssmtl_datasets.naming import (
    is_image_folder,
    is_label_file,
    is_nnunet_folder,
    is_volume,
    label_folder,
    stem,
    tells_case,
)
from ssmtl_datasets.pairing import beside, once, paired
from ssmtl_toolkit.data.files import real
from ssmtl_toolkit.data.finding import PREDICTION, Found, find, parts_of, predictions_below
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

_LABEL_MAP = "not a scan; give it by itself if it is a scan"


def only(file: Path) -> Scan:
    """Return a file that is given by itself as a scan.

    If its name is that of a channel beside others, CASE_0001 beside CASE_0000, it is that channel of the case.
    """
    scan = replace(_scan(Found(file, file), file.parent), named=True)
    case, number = numbered(stem(file.name)) or ("", 0)
    ending = file.name[len(stem(file.name)) :]
    beside = [(file.parent / f"{case}_{other:04d}{ending}").exists() for other in (0, 1)]
    if case and (all(beside) or (beside[0] and is_nnunet_folder(real(file.parent).name))):
        return replace(scan, name=printable(case), patient=printable(case), contrasts=(contrast_of(number),))
    return scan


def images_and_labels(root: Path) -> tuple[Path, list[Path]] | None:
    """Return the folder of images in `root`, and those beside it that may hold their label maps; None if there is none.

    A folder that is called like images in another way counts if it and one of label maps are all that there is.
    """
    below = _subfolders(root)
    holds = {folder: label_folder(folder.name) for folder in below}
    labels = [f for f in below if holds[f] == "labels"] or [f for f in below if holds[f] == "perhaps"]
    images = next((root / name for name in ("images", "imagesTr") if (root / name).is_dir()), None)
    if images is not None:
        own = root / images.name.replace("images", "labels")
        return images, [own] if own in below else labels
    like = [folder for folder in below if is_image_folder(folder.name)]
    if len(like) == len(labels) == 1 and not _others(root, {*like, *labels}):
        return like[0], labels
    return None


def _others(root: Path, inside: set[Path]) -> bool:
    """Whether anything but these folders and notes lies in a folder."""
    return any(
        path not in inside and not path.name.startswith(".") and (path.is_dir() or is_volume(path.name))
        for path in root.iterdir()
    )


def list_pairs(root: Path, readers: Readers, choice: Choice) -> list[Scan]:
    """List the images of `images_and_labels(root)` with their label maps; of imagesTr also those of imagesTs, imagesVa.

    If cases have several channels (CASE_0000, … beside label maps CASE), only the chosen one is used, or several are
    joined to one scan.
    """
    found = images_and_labels(root)
    if found is None:
        raise DataError(f"{printable(root)}: has no folder of images")
    scans = _below(*found, readers, choice)
    if found[0].name == "imagesTr":
        known = {scan.name for scan in scans}
        for part in ("Va", "Val", "Ts"):
            if (root / f"images{part}").is_dir():
                labels = [folder for folder in [root / f"labels{part}"] if folder.is_dir()]
                more = _below(root / f"images{part}", labels, readers, choice)
                scans += [_as(scan, f"images{part}/{scan.name}") if scan.name in known else scan for scan in more]
    if not any(scan.label for scan in scans):
        scans += _unused(found[0], found[1] if len(found[1]) > 1 else [], scans, readers)
    return _some(scans, root)


def _as(scan: Scan, name: str) -> Scan:
    return replace(scan, name=name, patient=name if scan.patient == scan.name else scan.patient)


def _some(scans: list[Scan], root: Path) -> list[Scan]:
    if not scans:
        raise DataError(
            f"{printable(root)}: no scan found in this folder; expected files such as .nii.gz, .nrrd or .mha, "
            f"or folders of DICOM, PNG, JPEG or TIFF slices"
        )
    return scans


def _subfolders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{printable(root)}: the folder cannot be read ({error.strerror})") from error


def _below(images: Path, folders: list[Path], readers: Readers, choice: Choice) -> list[Scan]:
    """Return the scans in a folder of images, with label maps from the one folder beside it that has them."""
    if readers.can_read(images):
        inside = f"{printable(images)}/CASE/"
        raise DataError(f"{printable(images)}: holds slices; put those of each scan into a folder of its own, {inside}")
    scans = once([_scan(found, images) for found in find(images, readers)])
    if not scans:
        return []
    if choice.joins:
        scans = joined(scans, images, choice)
    if len(folders) > 1:
        candidates = " and ".join(f"{printable(folder.name)}/" for folder in folders)
        reason = f"{candidates} may hold the label maps; rename the right one to labels/"
        scans.append(Scan(images.parent, "labels", "labels", unfit=f"{printable(images.parent)}: {reason}"))
    elif folders:
        labels = once([_scan(found, folders[0]) for found in find(folders[0], readers)])
        pairs = paired(scans, labels, images, choice)
        if any(scan.label for scan in pairs) or label_folder(folders[0].name) == "labels":
            scans = pairs
    if not any(scan.label for scan in scans):
        scans = scans if choice.joins else _of_channels(scans, images, choice)
    return _without_label_maps(scans)


def _without_label_maps(scans: list[Scan]) -> list[Scan]:
    """Mark label maps among images by their names, if they have no label map themselves and others are images."""
    named = [not scan.unfit and scan.label is None and is_label_file(scan.path.name) for scan in scans]
    if all(label or scan.unfit for label, scan in zip(named, scans, strict=True)):
        return scans
    return [_label_map(scan) if label else scan for scan, label in zip(scans, named, strict=True)]


def _label_map(scan: Scan, folder: str = "") -> Scan:
    where = f" (in {printable(folder)}/)" if folder else ""
    return replace(scan, unfit=f"{printable(scan.path)}: a label map by its name{where}, {_LABEL_MAP}")


def _unused(images: Path, labels: list[Path], scans: list[Scan], readers: Readers) -> Iterator[Scan]:
    """Yield what lies beside a folder of images without label maps, and holds none of the scans listed."""
    inside = {folder for scan in scans for path in (scan.path, scan.label) if path for folder in path.parents}
    for folder in _subfolders(images.parent):
        if folder in {images, *labels, *inside} or (folder / PREDICTION).is_file():
            continue
        if readers.can_read(folder) or next(find(folder, readers), None):
            reason = f"is ignored because of {printable(images.name)}/ beside it; put label maps into labels/"
            yield Scan(folder, folder.name, folder.name, unfit=f"{printable(folder)}: {reason}")


def everything(root: Path, readers: Readers, choice: Choice, claimed: Collection[Path] = ()) -> list[Scan]:
    """List whatever can be read below a folder, and the folder itself; `claimed` is listed elsewhere.

    Raises:
        DataError: there is nothing, or not the channels that were chosen.
    """
    whole = readers.can_read(root) and readers.label_rank(root) is None
    own = [_scan(found, root.parent) for found in parts_of(root, readers.match(root))] if whole else []
    scans = own + once(_unless_labels(root, list(find(root, readers, claimed))))
    if not claimed:
        _some(scans, root)
    labels = {scan.name: scan for scan in scans if scan.unfit.endswith(_LABEL_MAP)}
    return beside(_of_channels(scans, root, choice), labels)


def _of_channels(scans: list[Scan], root: Path, choice: Choice) -> list[Scan]:
    if scans and (choice.joins or choice.channel):
        return joined(scans, root, choice)
    return _of_one_head(scans, root)


def _of_one_head(scans: list[Scan], root: Path) -> list[Scan]:
    """Make the case the patient where names are those of channels: CASE_0000, CASE_0001 of at least two cases.

    In a folder that is called imagesTs or the like one case is enough.
    """
    parts, _ = by_number(scans)
    contrasts: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        contrasts[part.case].add(part.contrast)
    every = set().union(*contrasts.values())
    enough = 1 if is_nnunet_folder(real(root).name) else 2
    if len(contrasts) < enough or every != {contrast_of(number) for number in range(len(every))}:
        return scans
    channel = {part.scan.path: part for part in parts}
    return [
        replace(scan, patient=channel[scan.path].case, contrasts=(channel[scan.path].contrast,))
        if scan.path in channel
        else scan
        for scan in scans
    ]


def _unless_labels(root: Path, candidates: list[Found]) -> list[Scan]:
    """Mark label maps, by name or folder, and predictions."""
    doubtful: dict[Path, list[int]] = defaultdict(list)
    predicted, folder_of = predictions_below(root), functools.cache(functools.partial(_label_folder, root))
    scans = []
    for i, found in enumerate(candidates):
        is_folder = found.holder.is_dir()
        scan = _scan(found, root, is_folder)
        folder, sure = folder_of(found.holder if is_folder else found.holder.parent, is_folder)
        if not scan.unfit and (sure or is_label_file(found.holder.name)):
            scan = _label_map(scan, folder.name if folder else "")
        elif not scan.unfit and predicted(found.holder) not in (None, root):
            reason = f"lies below a {PREDICTION}: a prediction, not a scan; give that folder itself if these are scans"
            scan = replace(scan, unfit=f"{printable(scan.path)}: {reason}")
        elif folder:
            doubtful[folder].append(i)
        scans.append(scan)
    return _settled(scans, doubtful)


def _label_folder(root: Path, inner: Path, is_scan: bool) -> tuple[Path | None, bool]:
    """Return the folder from `inner` up to `root` whose name stands for label maps, and whether that is certain.

    `is_scan`: `inner` is a scan itself.
    """
    between, perhaps = [inner, *inner.parents], None
    for folder in between[: between.index(root)]:
        holds = label_folder(folder.name)
        if holds == "labels" and not (is_scan and folder.name.lower() == "instances"):  # DICOM's word too
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


def walk(folder: Path, readers: Readers) -> Iterator[Path]:
    """Yield every readable file or folder below `folder`, in the order of names."""
    yield from dict.fromkeys(found.holder for found in find(folder, readers))


def check(root: Path) -> None:
    """Refuse what is no folder."""
    if not root.exists():
        raise DataError(f"{printable(root)}: no such file or folder; check its path")
    if not root.is_dir():
        raise DataError(f"{printable(root)}: is neither a file nor a folder; check its path")


def _scan(found: Found, root: Path, is_folder: bool | None = None) -> Scan:
    """Name a scan by its path below `root` and, if a folder holds several, its own name; the folder is the patient.

    `is_folder`: whether its holder is a folder, if that is known.
    """
    holder = found.holder if found.holder.name not in ("", "..") else real(found.holder)
    relative = holder.relative_to(root) if found.holder == holder else Path(holder.name)
    if not (found.holder.is_dir() if is_folder is None else is_folder):
        relative = relative.with_name(stem(relative.name))
    patient = printable(relative)
    return Scan(found.path, printable(relative / found.part) if found.part else patient, patient, unfit=found.unfit)
