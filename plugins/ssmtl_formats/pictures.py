"""Which pictures of a folder are slices of one scan, by their names: neither masks beside them nor other scans."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ssmtl_formats.names import picture_files, picture_format
from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.text import listed, printable

_MASKS = {
    *("mask", "masks", "label", "labels", "seg", "segs", "dseg", "segmentation", "segmentations", "gt"),
    *("groundtruth", "annotation", "annotations"),
}
_SLICES = {"slice", "slc", "sl", "frame", "z"}
_PATIENTS = {"patient", "pat", "subject", "subj", "sub", "case"}
_PIECE = re.compile(r"\d+|[A-Z]?[a-z]+|[A-Z]+")  # words also within camelCase
_DECIMAL = re.compile(r"\d+\.\d+")
_EVEN = 0.1  # of the distance between decimal numbers


def slices_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the slices of a folder in natural order, and the masks beside them; if all are masks, they are the slices.

    Raises:
        FileError: there are fewer than two slices, those of several scans, or of several formats.
    """
    files = picture_files(folder)
    masks = [file for file in files if _is_mask(file)]
    slices = [file for file in files if file not in masks]
    if not slices:
        slices, masks = masks, []
    if len(slices) < 2:
        beside = f" beside {len(masks)} masks (such as {printable(masks[0].name)})" if masks else ""
        raise FileError(f"has {len(slices)} slices{beside}, two or more are needed; check the path")
    kinds = dict.fromkeys(map(picture_format, slices))
    if len(kinds) > 1:
        raise FileError(f"holds slices as {' and as '.join(kinds)}: copies, or those of two scans; keep one format")
    if scans := _scans([file.stem for file in slices]):
        names = listed(map(printable, scans), 3)
        raise FileError(
            f"holds slices of {len(scans)} scans by their names ({names}); put those of each scan into a folder of "
            f"its own"
        )
    return slices, masks


def _is_mask(file: Path) -> bool:
    words = _pieces(file.stem)
    return not _MASKS.isdisjoint(words) or ("ground", "truth") in pairwise(words)


def _pieces(name: str) -> list[str]:
    return [piece.lower() for piece in _PIECE.findall(name)]


def _scans(names: Sequence[str]) -> list[str]:
    """Return the name of one slice of each scan, if there are several scans."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        alike[tuple("#" if piece.isdigit() else piece for piece in _pieces(name))].append(name)
    scans = [scan for words, group in alike.items() if len(group) > 1 for scan in _numbered(words, group)]
    return scans if len(scans) > 1 and not _even(names) else []


def _numbered(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Split names that differ only in numbers by all of these except the one that counts the slices.

    If slices are numbered continuously, or each name has another number of its own, such as a position, they are one
    scan.
    """
    before = [word for word, number in zip(("", *words), words, strict=False) if number == "#"]
    rows = [tuple(int(number) for number in re.findall(r"\d+", name)) for name in names]
    varying = [i for i, column in enumerate(zip(*rows, strict=True)) if len(set(column)) > 1]
    if not varying:
        return [names[0]]
    slice_at = next((i for i in reversed(varying) if before[i] in _SLICES), varying[-1])
    scans: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for row, name in zip(rows, names, strict=True):
        scans[row if before[slice_at] in _PATIENTS else row[:slice_at] + row[slice_at + 1 :]].append(name)
    by_patient = any(before[i] in _PATIENTS for i in varying)
    repeated = len({row[slice_at] for row in rows}) < len(rows) and max(map(len, scans.values())) > 1
    if not (by_patient or repeated):
        return [names[0]]
    return [group[0] for group in scans.values()]


def _even(names: Sequence[str]) -> bool:
    """Whether the names differ in one decimal number in even steps, such as the position of a slice in mm."""
    texts = {_DECIMAL.sub("#", name) for name in names}
    values = sorted(float(_DECIMAL.findall(name)[-1]) for name in names if _DECIMAL.search(name))
    if len(texts) > 1 or len(values) < len(names):
        return False
    steps = [b - a for a, b in pairwise(values)]
    return max(steps) - min(steps) <= _EVEN * max(steps)
