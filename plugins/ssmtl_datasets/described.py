"""Data sets that describe themselves in a dataset.json: Medical Segmentation Decathlon and nnU-Net raw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmtl_datasets.folder import walk
from ssmtl_datasets.naming import stem
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.names import printable
from ssmtl_toolkit.specs import ReadableTest, Scan

FILE = "dataset.json"


def description(root: Path) -> Mapping[str, Any] | None:
    """Read root/dataset.json; None where there is none, or where it is some other tool's.

    Raises:
        DataError: it cannot be read as JSON.
    """
    file = root / FILE
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(file)}: cannot be read as JSON ({error}); mend it, or move it away") from None
    ours = isinstance(said, dict) and ("training" in said or "file_ending" in said)
    return said if ours else None


def classes_of(root: Path, said: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Class name -> its value, background left out; Decathlon writes value: name, nnU-Net name: value.

    nnU-Net's `ignore` is no class: its value is for --ignore-value.

    Raises:
        DataError: the labels are not of these forms, or overlap (nnU-Net's regions).
    """
    file, labels = printable(root / FILE), said.get("labels", {})
    if not isinstance(labels, dict):
        raise DataError(f"{file}: its `labels` are {labels!r}; expected a table such as {{'1': 'liver'}}")
    if any(isinstance(value, list) for value in labels.values()):
        raise DataError(f"{file}: its labels are regions that overlap; name the classes by --classes name=value,…")
    found = {}
    for key, value in labels.items():
        name, number = (key, value) if isinstance(value, int) else (value, key)
        try:
            found[str(name)] = (int(number),)
        except (TypeError, ValueError):
            raise DataError(f"{file}: label {key!r}: {value!r} has no whole number; mend it") from None
    return {name: values for name, values in found.items() if values != (0,) and name != "ignore"}


def list_described(root: Path, said: Mapping[str, Any], channel: int, readable: ReadableTest) -> list[Scan]:
    """List the scans, labelled ones first; what is listed or expected and is not there is named as unfit.

    Raises:
        DataError: dataset.json does not say what it should, or no scan is there.
    """
    scans = _decathlon(root, said) if "training" in said else _nnunet(root, said, channel, readable)
    if not any(not scan.unfit for scan in scans):
        raise DataError(f"{printable(root)}: none of the scans that its {FILE} describes is there")
    return scans


def _decathlon(root: Path, said: Mapping[str, Any]) -> list[Scan]:
    modality = said.get("modality")
    named = next(iter(modality.values()), "") if isinstance(modality, dict) else ""
    scans = []
    for part in ("training", "test"):
        listed = said.get(part, [])
        if not isinstance(listed, list):
            raise DataError(f"{printable(root / FILE)}: its `{part}` is no list; expected [{{'image': …, 'label': …}}]")
        for item in listed:
            image, label = _files(root, item, part)
            name = stem(image.name)
            unfit = next((_missing(root, file) for file in (image, label) if file and not file.is_file()), "")
            scans.append(Scan(image, name, name, str(named), None if unfit else label, unfit))
    return scans


def _files(root: Path, item: Any, part: str) -> tuple[Path, Path | None]:
    image = item.get("image") if isinstance(item, dict) else item
    label = item.get("label") if isinstance(item, dict) else None
    if not isinstance(image, str) or not isinstance(label, str | None):
        raise DataError(
            f"{printable(root / FILE)}: cannot read {item!r} in its `{part}`; expected an image and a label"
        )
    return root / image, root / label if label else None


def _missing(root: Path, file: Path) -> str:
    return f"{printable(file)}: is listed in {printable(root / FILE)} and is not there"


def _nnunet(root: Path, said: Mapping[str, Any], channel: int, readable: ReadableTest) -> list[Scan]:
    ending, channels = said.get("file_ending"), said.get("channel_names", {})
    if not isinstance(ending, str) or not isinstance(channels, dict):
        raise DataError(f"{printable(root / FILE)}: expected file_ending, a text, and channel_names, a table")
    if channels and str(channel) not in channels:
        known = ", ".join(f"{number} {name}" for number, name in channels.items())
        raise DataError(f"{printable(root / FILE)}: has no channel {channel} (known: {known})")
    modality, suffix = str(channels.get(str(channel), "")), f"_{channel:04d}{ending}"
    if not readable(root / f"case{ending}"):
        raise DataError(
            f"{printable(root / FILE)}: its files end in {printable(ending)!r}, which no reader is meant for"
        )
    scans = []
    for part in ("Tr", "Ts"):
        if not (root / f"images{part}").is_dir():
            continue
        labels = {p.name.removesuffix(ending): p for p in _there(root / f"labels{part}", readable)}
        for image in _there(root / f"images{part}", readable):
            if image.name.endswith(suffix):
                case = image.name.removesuffix(suffix)
                scans.append(Scan(image, case, case, modality, labels.pop(case, None)))
        for case, label in labels.items():
            reason = f"{printable(label)}: a label without an image {case}{suffix} in images{part}"
            scans.append(Scan(label, case, case, unfit=reason))
    return scans


def _there(folder: Path, readable: ReadableTest) -> list[Path]:
    return list(walk(folder, readable)) if folder.is_dir() else []
