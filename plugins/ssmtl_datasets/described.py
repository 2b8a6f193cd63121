"""Data sets that describe themselves in a dataset.json: Medical Segmentation Decathlon and nnU-Net raw."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from ssmtl_datasets.channels import Channel, numbered, scan_of
from ssmtl_datasets.folder import walk
from ssmtl_datasets.naming import stem
from ssmtl_toolkit.data.files import real
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

FILE = "dataset.json"
_MOST_CHANNELS = 100  # of a case in separate files, to look for by name
_SPLIT = re.compile(r"(train(ing)?|val(id|idation)?|test(ing)?)(_?\d+)?", re.IGNORECASE)


def description(root: Path) -> Mapping[str, Any] | None:
    """Read root/dataset.json; None if it is missing or belongs to another tool.

    Raises:
        DataError: it cannot be read as JSON.
    """
    file = root / FILE
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(file)}: cannot be read as JSON ({error}); fix it, or move it away") from None
    except RecursionError:
        raise DataError(f"{printable(file)}: is nested too deeply to be read as JSON; move it away") from None
    return document if isinstance(document, dict) and _is_ours(document) else None


def _is_ours(document: Mapping[str, Any]) -> bool:
    lists = (_SPLIT.fullmatch(part) and _is_list(part, value) for part, value in document.items() if part != "test")
    return "training" in document or "file_ending" in document or _is_table(document.get("dataset")) or any(lists)


def classes_of(root: Path, document: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return class name -> its values, without background; Decathlon writes value: name, nnU-Net name: value.

    nnU-Net's regions are classes of several values, which may overlap. Of those that no other region tells apart, the
    one in its `regions_class_order` comes first: it is what predictions write. nnU-Net's `ignore` is not a class: its
    value is for --ignore-value.

    Raises:
        DataError: the labels do not have these forms.
    """
    file, labels = printable(root / FILE), document.get("labels", {})
    if not isinstance(labels, dict):
        raise DataError(f"{file}: its `labels` are {labels!r}; expected a table such as {{'1': 'liver'}}")
    order = document.get("regions_class_order")
    first = order if isinstance(order, list) else []
    classes = {}
    for key, value in labels.items():
        name, numbers = (key, value) if isinstance(value, int | list) else (value, key)
        try:
            values = [int(number) for number in (numbers if isinstance(numbers, list) else [numbers])]
        except (TypeError, ValueError):
            shown = printable(f"{key!r:.100}: {value!r:.100}")
            raise DataError(f"{file}: label {shown} has no integer value; fix it") from None
        classes[str(name)] = tuple(sorted(values, key=lambda number: number not in first))
    return {name: values for name, values in classes.items() if set(values) != {0} and name != "ignore"}


def list_described(root: Path, document: Mapping[str, Any], channel: Channel, readers: Readers) -> list[Scan]:
    """List the scans, labelled ones first; entries that cannot be used are listed as unfit.

    Raises:
        DataError: dataset.json is malformed, or none of its scans can be used.
    """
    raw = "file_ending" in document and "training" not in document  # nnU-Net v2 finds scans by name
    scans = _lists(root, document, channel, readers)
    if _is_table(document.get("dataset")):
        scans += _table(root, document, channel, readers)
    elif raw:
        scans += _of_part(root, document, "Tr", channel, readers)
    if raw:
        scans += _of_part(root, document, "Ts", channel, readers)
    scans = _each_once(scans)
    if not any(not scan.unfit for scan in scans):
        first = f": {scans[0].unfit}" if scans else ""
        raise DataError(f"{printable(root)}: none of the scans that its {FILE} describes can be used{first}")
    return scans


def _is_table(value: Any) -> bool:
    """Whether this is nnU-Net's table of cases, {case: {"images": […], "label": …}}."""
    return isinstance(value, dict) and any(isinstance(item, dict) and "images" in item for item in value.values())


def _is_list(part: str, value: Any) -> bool:
    """Whether this is a list of scans: the Decathlon's `training` or `test`, or a similar one, as in MONAI."""
    items = value if isinstance(value, list) else []
    return part == "training" or any(isinstance(item, dict) and "image" in item for item in items)


def _table(root: Path, document: Mapping[str, Any], channel: Channel, readers: Readers) -> list[Scan]:
    files = _Files(root, channel, readers, _channels(document))
    modality = _modality(document, channel)
    scans = []
    for case, item in document["dataset"].items():
        images = item.get("images") if isinstance(item, dict) else None
        scan = files.scan({"image": images, "label": item.get("label")} if images else item, "dataset")
        scans.append(replace(scan, name=printable(case), patient=printable(case), modality=modality))
    return scans


def _modality(document: Mapping[str, Any], channel: Channel) -> str:
    known = document.get("channel_names") or document.get("modality")
    if not isinstance(known, dict):
        return ""
    if channel == "all":
        return printable("+".join(map(str, known.values())))
    return printable(str(known.get(str(channel), next(iter(known.values()), ""))))


def _channels(document: Mapping[str, Any]) -> set[int]:
    """Return the numbers of the channels that every case has; empty if the document does not say."""
    known = document.get("channel_names") or document.get("modality")
    return {int(key) for key in known if key.isdecimal()} if isinstance(known, dict) else set()


def _lists(root: Path, document: Mapping[str, Any], channel: Channel, readers: Readers) -> list[Scan]:
    """Return the scans of all lists: `training` first, `test` last."""
    files, modality = _Files(root, channel, readers, _channels(document)), _modality(document, channel)
    parts = sorted(document, key=lambda part: (part != "training", part == "test"))
    entries = [(item, part) for part in parts for item in _items(root, document, part, readers)]
    scans = _each_once([replace(files.scan(item, part), modality=modality) for item, part in entries])
    return _with_distinct_names(scans, root)


def _each_once(scans: Sequence[Scan]) -> list[Scan]:
    """Drop duplicates, keeping the labelled one of two."""
    kept: dict[Path | int, Scan] = {}
    for scan in scans:
        key = len(kept) if scan.unfit else scan.path
        if key not in kept or (scan.label and not kept[key].label):
            kept[key] = scan
    return list(kept.values())


def _items(root: Path, document: Mapping[str, Any], part: str, readers: Readers) -> list[Any]:
    """Return the scans that a key of dataset.json lists, if any."""
    items = document[part]
    if part == "training" or (part == "test" and "training" in document):
        if not isinstance(items, list):
            raise DataError(
                f"{printable(root / FILE)}: its `{part}` is not a list; expected [{{'image': …, 'label': …}}]"
            )
        return items
    if _is_list(part, items):
        return list(items)
    if isinstance(items, list) and _SPLIT.fullmatch(part):
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
    """Finds the files that a dataset.json names, in its own folder only: its author may be anybody."""

    root: Path
    channel: Channel
    readers: Readers
    named: Collection[int]

    def scan(self, item: Any, part: str) -> Scan:
        """Return the scan that an item {"image": …, "label": …} or a path stands for.

        Raises:
            DataError: it has another form, in a list that can only hold scans.
        """
        image, label = (item.get("image"), item.get("label")) if isinstance(item, dict) else (item, None)
        images = self._chosen(image)
        label = label[0] if isinstance(label, list) and len(label) == 1 else label
        if not (images and all(isinstance(text, str) and text for text in images) and isinstance(label, str | None)):
            shown = (
                f"{printable(self.root / FILE)}: cannot read {printable(repr(item)[:200])} in its `{printable(part)}`"
            )
            reason = f"{shown}; expected an image and a label"
            if part in ("training", "test", "dataset"):
                raise DataError(reason)
            return Scan(self.root / FILE, printable(part), printable(part), unfit=reason)
        name = printable(stem(PurePath(images[0]).name or "."))
        reasons = [self._unfit(text) for text in (*images, label) if text]
        if unfit := next(filter(None, reasons), ""):
            return Scan(self.root / FILE, name, name, unfit=unfit)
        files = dict(enumerate(self.root / text for text in images)) if len(images) > 1 else self._files(images[0])
        wanted: Collection[int] = ()  # one file may hold all channels
        if len(files) > 1:
            wanted, found = self.named, numbered(name)
            name = found[0] if found else name
        return scan_of(name, files, wanted, self.root / label if label else None)

    def _chosen(self, image: Any) -> list[Any]:
        """Return the images that an item names: of a list, one file per channel, the selected channels."""
        if not isinstance(image, list):
            return [image]
        if self.channel == "all":
            return image
        return image[self.channel : self.channel + 1] or [image]

    def _files(self, text: str) -> dict[int, Path]:
        """Return the file of this name or, if missing, those of its channels: nnU-Net v1 lists CASE for CASE_0000."""
        path = self.root / text
        if path.exists() or not path.name:
            return {0: path}
        base = stem(path.name)
        numbers = range(_MOST_CHANNELS) if self.channel == "all" else [self.channel]
        channels = {number: path.with_name(f"{base}_{number:04d}{path.name[len(base) :]}") for number in numbers}
        return {number: file for number, file in channels.items() if file.is_file()} or {0: path}

    def _unfit(self, text: str) -> str:
        """Say why a file cannot be used; "" if it can."""
        shown = printable(text if len(text) <= 200 else f"{text[:200]}…")
        if not _is_below(Path(os.path.normpath(self.root / text)), self.root):
            return self._outside(shown)
        try:
            paths = self._files(text).values()
            if not all(path.is_file() or (path.is_dir() and self.readers.can_read(path)) for path in paths):
                return f"{printable(self.root)}/{shown}: is listed in {printable(self.root / FILE)} but does not exist"
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return f"{printable(self.root / FILE)}: {shown!r} is not a valid path ({reason})"
        return "" if all(_is_below(real(path), real(self.root)) for path in paths) else self._outside(shown)

    def _outside(self, shown: str) -> str:
        return (
            f"{printable(self.root / FILE)}: {shown!r} leads out of this folder; copy the file into it, or list it in "
            f"a manifest (.csv)"
        )


def _is_below(path: Path, root: Path) -> bool:
    """Whether `path` is below `root`, by name."""
    return path.absolute().is_relative_to(root.absolute()) or path.is_relative_to(real(root))


def _of_part(root: Path, document: Mapping[str, Any], part: str, channel: Channel, readers: Readers) -> Iterator[Scan]:
    """Yield the cases in imagesTr or imagesTs, CASE_0000 and so on, with their labels."""
    ending, channels = document.get("file_ending"), document.get("channel_names", {})
    if not isinstance(ending, str) or not isinstance(channels, dict):
        raise DataError(f"{printable(root / FILE)}: expected `file_ending` as text and `channel_names` as a table")
    if channels and channel != "all" and str(channel) not in channels:
        known = printable(", ".join(f"{number} {name}" for number, name in channels.items()))
        raise DataError(f"{printable(root / FILE)}: has no channel {channel} (known: {known})")
    if not readers.can_read(root / f"case{ending}"):
        raise DataError(
            f"{printable(root / FILE)}: its files end in {printable(ending)!r}, and there is no reader for these"
        )
    if not (root / f"images{part}").is_dir():
        return
    cases: dict[tuple[Path, str], dict[int, Path]] = {}
    for image in _files_in(root / f"images{part}", readers):
        found = numbered(image.name.removesuffix(ending)) if image.name.endswith(ending) else None
        if found and channel in ("all", found[1]):
            cases.setdefault((image.parent, found[0]), {})[found[1]] = image
    labels = {p.name.removesuffix(ending): p for p in _files_in(root / f"labels{part}", readers)}
    wanted = () if channel != "all" else _channels(document) or {number for files in cases.values() for number in files}
    for (_, case), files in cases.items():
        scan = scan_of(printable(case), files, wanted, labels.pop(case, None))
        yield replace(scan, modality=_modality(document, channel))
    suffix = f"_{0 if channel == 'all' else channel:04d}{ending}"
    for case, label in labels.items():
        reason = f"{printable(label)}: a label without an image {case}{suffix} in images{part}"
        yield Scan(label, printable(case), printable(case), unfit=reason)


def _files_in(folder: Path, readers: Readers) -> list[Path]:
    return list(walk(folder, readers)) if folder.is_dir() else []
