"""Lists the scans that a dataset.json describes: Medical Segmentation Decathlon, nnU-Net raw, MONAI."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from ssmtl_datasets.channels import Choice, contrast_of, numbered, scan_of
from ssmtl_datasets.folder import walk
from ssmtl_datasets.layouts.description import Description, is_list, is_split, is_table
from ssmtl_datasets.naming import stem
from ssmtl_toolkit.data.files import is_below, real
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

_MOST_CHANNELS = 100  # of a case in separate files, to look for by name
_LABELS = ("label", "seg", "mask", "segmentation")  # what lists call the label map


def list_described(description: Description, choice: Choice, readers: Readers, *, outside: bool = False) -> list[Scan]:
    """List the scans, labelled ones first; entries that cannot be used are listed as unfit.

    `outside`: files may be outside of the folder of the description.

    Raises:
        DataError: the description is malformed, or none of its scans can be used.
    """
    numbers, document = description.numbers(choice), description.document
    files = _Files(description, numbers, readers, outside)
    scans = _lists(files)
    if is_table(document.get("dataset")):
        scans += _table(files)
    elif description.raw:
        scans += _of_part(files, "Tr")
    if description.raw:
        scans += _of_part(files, "Ts")
    scans = _each_once(scans)
    if not any(not scan.unfit for scan in scans):
        first = f": {scans[0].unfit}" if scans else ""
        name = printable(description.file.name)
        raise DataError(
            f"{printable(description.root)}: none of the scans that its {name} describes can be used{first}"
        )
    return scans


def _label_of(item: Mapping[str, Any]) -> Any:
    """The label map of an item, under the first of the names that lists have for it; None: it has none."""
    return next((item[key] for key in _LABELS if key in item), None)


def _table(files: _Files) -> list[Scan]:
    modality = files.description.modality(files.numbers)
    scans = []
    for case, item in files.description.document["dataset"].items():
        images = item.get("images") if isinstance(item, dict) else None
        scan = files.scan({"image": images, "label": _label_of(item)} if images else item, "dataset")
        scans.append(replace(scan, name=printable(case), patient=printable(case), modality=modality))
    return scans


def _lists(files: _Files) -> list[Scan]:
    """Return the scans of all lists: `training` first, `test` last."""
    modality = files.description.modality(files.numbers)
    parts = sorted(files.description.document, key=lambda part: (part != "training", part == "test"))
    entries = [(item, part) for part in parts for item in _items(files.description, part, files.readers)]
    scans = _each_once([replace(files.scan(item, part), modality=modality) for item, part in entries])
    return _with_distinct_names(scans, files.description.root)


def _each_once(scans: Sequence[Scan]) -> list[Scan]:
    """Drop duplicates, keeping the labelled one of two."""
    kept: dict[Path | int, Scan] = {}
    for scan in scans:
        key = len(kept) if scan.unfit else scan.path
        if key not in kept or (scan.label and not kept[key].label):
            kept[key] = scan
    return list(kept.values())


def _items(description: Description, part: str, readers: Readers) -> list[Any]:
    """Return the scans that a key of the description lists, if any."""
    items = description.document[part]
    if part == "training" or (part == "test" and "training" in description.document):
        if not isinstance(items, list):
            raise DataError(f"{description.where}: its `{part}` is not a list; expected [{{'image': …, 'label': …}}]")
        return items
    if is_list(part, items):
        return list(items)
    if isinstance(items, list) and is_split(part):
        return [
            item for item in items if isinstance(item, dict) or (isinstance(item, str) and readers.can_read(Path(item)))
        ]
    return []


def _with_distinct_names(scans: list[Scan], root: Path) -> list[Scan]:
    """Name scans by their paths if their files have the same name."""
    count = Counter(scan.name for scan in scans)

    def name(scan: Scan) -> str:
        if count[scan.name] == 1 or not scan.path.is_relative_to(root):
            return scan.name
        return printable(scan.path.relative_to(root).with_name(stem(scan.path.name)))

    return [replace(scan, name=name(scan), patient=name(scan)) for scan in scans]


@dataclass(frozen=True)
class _Files:
    """Finds the files that a description names, in its own folder unless `outside`: its author may be anybody.

    `numbers` are the channels that are used; (): all of them.
    """

    description: Description
    numbers: tuple[int, ...]
    readers: Readers
    outside: bool = False

    @property
    def root(self) -> Path:
        """The folder of the description."""
        return self.description.root

    def scan(self, item: Any, part: str) -> Scan:
        """Return the scan that an item {"image": …, "label": …} or a path stands for.

        Raises:
            DataError: it has another form, in a list that can only hold scans.
        """
        image, label = (item.get("image"), _label_of(item)) if isinstance(item, dict) else (item, None)
        images = self._chosen(image)
        label = label[0] if isinstance(label, list) and len(label) == 1 else label
        if not (images and all(isinstance(text, str) and text for text in images) and isinstance(label, str | None)):
            reason = (
                f"{self.description.where}: cannot read {printable(repr(item)[:200])} in its `{printable(part)}`; "
                f"expected an image and a label"
            )
            if part in ("training", "test", "dataset"):
                raise DataError(reason)
            return Scan(self.description.file, printable(part), printable(part), unfit=reason)
        name = printable(stem(PurePath(images[0]).name or "."))
        reasons = [self._unfit(text) for text in (*images, label) if text]
        if unfit := next(filter(None, reasons), ""):
            return Scan(self.description.file, name, name, unfit=unfit)
        numbers = self.numbers or range(len(images))
        files = dict(zip(numbers, (self.root / text for text in images), strict=False))
        return self._scan(name, files if len(images) > 1 else self._files(images[0]), label)

    def _scan(self, name: str, files: dict[int, Path], label: str | None) -> Scan:
        path = self.root / label if label else None
        found = numbered(name)
        if len(files) == 1:  # which may hold all channels
            scan = scan_of(name, {contrast_of(number): file for number, file in files.items()}, label=path)
            number = numbered(stem(scan.path.name))
            channel = number and number[1] in (self.description.channels or (0,))  # not the case, as in amos_0007
            return replace(scan, contrasts=(contrast_of(number[1]),) if number and channel else ())
        wanted = self.numbers or tuple(sorted(self.description.channels))
        by_contrast = {contrast_of(number): files[number] for number in sorted(files)}
        return scan_of(found[0] if found else name, by_contrast, [contrast_of(number) for number in wanted], path)

    def _chosen(self, image: Any) -> list[Any]:
        """Return the images that an item names: of a list, one file per channel, the selected channels."""
        if not isinstance(image, list):
            return [image]
        if not self.numbers:
            return image
        return [image[number] for number in self.numbers if number < len(image)] or [image]

    def _files(self, text: str) -> dict[int, Path]:
        """Return the file of this name or, if missing, those of its channels: nnU-Net v1 lists CASE for CASE_0000."""
        path = self.root / text
        if path.exists() or not path.name:
            return {0: path}
        base = stem(path.name)
        numbers = self.numbers or range(_MOST_CHANNELS)
        channels = {number: path.with_name(f"{base}_{number:04d}{path.name[len(base) :]}") for number in numbers}
        return {number: file for number, file in channels.items() if file.is_file()} or {0: path}

    def _unfit(self, text: str) -> str:
        """Say why a file cannot be used; "" if it can."""
        shown = printable(text if len(text) <= 200 else f"{text[:200]}…")
        if not self.outside and not is_below(Path(os.path.normpath(self.root / text)), self.root):
            return self._outside(shown)
        try:
            paths = self._files(text).values()
            if not all(path.is_file() or (path.is_dir() and self.readers.can_read(path)) for path in paths):
                return f"{printable(self.root)}/{shown}: is listed in {self.description.where} but does not exist"
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return f"{self.description.where}: {shown!r} is not a valid path ({reason})"
        inside = self.outside or all(is_below(real(path), real(self.root)) for path in paths)
        return "" if inside else self._outside(shown)

    def _outside(self, shown: str) -> str:
        return (
            f"{self.description.where}: {shown!r} leads out of this folder; copy the file into it, or, if you trust "
            f"who wrote this, add --allow-outside"
        )


def _of_part(files: _Files, part: str) -> Iterator[Scan]:
    """Yield the cases in imagesTr or imagesTs, CASE_0000 and so on, with their labels."""
    description, root, numbers = files.description, files.root, files.numbers
    ending = _ending(files)
    if not (root / f"images{part}").is_dir():
        return
    cases: dict[tuple[Path, str], dict[str, Path]] = {}
    for image in _files_in(root / f"images{part}", files.readers):
        found = numbered(image.name.removesuffix(ending)) if image.name.endswith(ending) else None
        if found and (not numbers or found[1] in numbers):
            cases.setdefault((image.parent, found[0]), {})[contrast_of(found[1])] = image
    labels = {p.name.removesuffix(ending): p for p in _files_in(root / f"labels{part}", files.readers)}
    every = {contrast for found in cases.values() for contrast in found}
    wanted = [contrast_of(number) for number in numbers or sorted(description.channels)] or sorted(every)
    for (_, case), images in cases.items():
        scan = scan_of(printable(case), images, wanted, labels.pop(case, None))
        yield replace(scan, modality=description.modality(numbers))
    suffix = f"_{numbers[0] if numbers else 0:04d}{ending}"
    for case, label in labels.items():
        reason = f"{printable(label)}: a label without an image {case}{suffix} in images{part}"
        yield Scan(label, printable(case), printable(case), unfit=reason)


def _ending(files: _Files) -> str:
    """Return how the files of nnU-Net v2 end, if there is a reader for them and they have the chosen channels."""
    document, where = files.description.document, files.description.where
    ending, channels = document.get("file_ending"), document.get("channel_names", {})
    if not isinstance(ending, str) or not isinstance(channels, dict):
        raise DataError(f"{where}: expected `file_ending` as text and `channel_names` as a table")
    missing = [number for number in files.numbers if channels and str(number) not in channels]
    if missing:
        known = printable(", ".join(f"{number} {name}" for number, name in channels.items()))
        raise DataError(f"{where}: has no channel {missing[0]} (known: {known})")
    if not files.readers.can_read(files.root / f"case{ending}"):
        raise DataError(f"{where}: its files end in {printable(ending)!r}, and there is no reader for these")
    return ending


def _files_in(folder: Path, readers: Readers) -> list[Path]:
    return list(walk(folder, readers)) if folder.is_dir() else []
