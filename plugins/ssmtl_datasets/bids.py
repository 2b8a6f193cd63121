"""BIDS: images by the suffix of their names, patients by `sub-`, label maps from derivatives (bids.neuroimaging.io).

`sub-01/[ses-02/]anat/sub-01_ses-02_run-1_T1w.nii.gz` has the entities sub, ses and run, and the suffix T1w.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssmtl_datasets.folder import stem
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.names import printable
from ssmtl_toolkit.specs import ReadableTest, Scan, did_you_mean

_LABEL = "dseg"
_OWN = {"space", "res", "den", "desc", "label", "seg"}  # entities that a label map has beside those of its image
_SAME_GRID = {"", "orig", "native", "individual"}  # values of `space`; or the suffix of the image


def list_bids(root: Path, suffix: str, datatype: str, labels: str, desc: str, readable: ReadableTest) -> list[Scan]:
    """List the images `…_SUFFIX` of all subjects and sessions, each with its label map, if there is one.

    Raises:
        DataError: `root` is no BIDS data set, has no such image or derivative, or it is not clear which label map to
            take.
    """
    subjects = _subjects(root)
    images = [file for subject in subjects for file in _images(subject, datatype, readable)]
    named = [file for file in images if _split(file)[1] == suffix]
    if not named:
        counted = Counter(_split(file)[1] for file in images)
        known = ", ".join(f"{name} ({number})" for name, number in counted.most_common(8)) or "none"
        where = f" in {datatype}/" if datatype else ""
        hint = did_you_mean(suffix, counted)
        raise DataError(
            f"{printable(root)}: has no image named …_{printable(suffix)}{where}{hint} (there are: {known})"
        )
    maps = _label_maps(root, labels, desc, readable)
    scans = [_scan(file, maps) for file in named]
    twice = [name for name, number in Counter(scan.name for scan in scans).items() if number > 1]
    if twice:
        raise DataError(f"{printable(root)}: has two images {printable(twice[0])}, which BIDS forbids; remove one")
    return scans


def classes_of(root: Path, labels: str, desc: str) -> dict[str, tuple[int, ...]]:
    """Class name -> values, from the tables `…dseg.tsv`; none where there are none, or where they contradict.

    Raises:
        DataError: a table has no columns `index` and `name`, or an index is no whole number.
    """
    found: dict[int, str] = {}
    tables = [*sorted(root.glob("*dseg.tsv")), *sorted(_derivatives(root, labels, f"*{_LABEL}.tsv"))]
    for file in tables:
        entities, _ = _split(file)
        if desc and entities.get("desc", desc) != desc:
            continue
        for index, name in _rows(file):
            if found.setdefault(index, name) != name:
                return {}
    classes: dict[str, tuple[int, ...]] = {}
    for index, name in sorted(found.items()):
        if index != 0:
            classes[name] = (*classes.get(name, ()), index)
    return classes


def _subjects(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{printable(root)}: no such folder; check its path")
    subjects = sorted(path for path in root.glob("sub-*") if path.is_dir())
    if not subjects:
        raise DataError(
            f"{printable(root)}: is no BIDS data set: it has no folders such as sub-01; give the folder with "
            f"dataset_description.json, or leave out `bids:`"
        )
    return subjects


def _images(subject: Path, datatype: str, readable: ReadableTest) -> Iterator[Path]:
    """The images of a subject, in and outside of sessions."""
    for pattern in (f"{datatype or '*'}/sub-*", f"ses-*/{datatype or '*'}/sub-*"):
        yield from sorted(file for file in subject.glob(pattern) if readable(file))


def _split(file: Path) -> tuple[dict[str, str], str]:
    """The entities of a name and its suffix."""
    *pairs, suffix = stem(file.name).split("_")
    entities = (pair.partition("-") for pair in pairs)
    return {key: value for key, _, value in entities}, suffix


def _derivatives(root: Path, pipeline: str, pattern: str) -> Iterable[Path]:
    folder = root / "derivatives"
    if not pipeline:
        return folder.rglob(pattern)
    if not (folder / pipeline).is_dir():
        known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        listed = printable(", ".join(known)) or "none"
        hint = did_you_mean(pipeline, known)
        raise DataError(f"{printable(folder)}: has no folder {printable(pipeline)!r}{hint} (there are: {listed})")
    return (folder / pipeline).rglob(pattern)


def _label_maps(root: Path, labels: str, desc: str, readable: ReadableTest) -> dict[frozenset[str], list[Path]]:
    """The label maps on the grids of their images, by the entities that both have."""
    found: dict[frozenset[str], list[Path]] = {}
    for file in sorted(_derivatives(root, labels, f"sub-*_{_LABEL}.*")):
        entities, suffix = _split(file)
        if suffix == _LABEL and readable(file) and (not desc or entities.get("desc") == desc):
            found.setdefault(_source(entities), []).append(file)
    return found


def _source(entities: dict[str, str]) -> frozenset[str]:
    """The entities that a label map takes over from its image."""
    return frozenset(f"{key}-{value}" for key, value in entities.items() if key not in _OWN)


def _scan(file: Path, maps: dict[frozenset[str], list[Path]]) -> Scan:
    entities, suffix = _split(file)
    there = maps.get(_source(entities), [])
    fitting = [label for label in there if _split(label)[0].get("space", "") in {*_SAME_GRID, suffix}]
    if len(fitting) > 1:
        listed = " and ".join(printable(label) for label in fitting[:2])
        raise DataError(
            f"{printable(file)}: has {len(fitting)} label maps, {listed}; "
            f"choose by labels=FOLDER (below derivatives) or desc=NAME"
        )
    name, patient = printable(stem(file.name)), f"sub-{printable(entities.get('sub', ''))}"
    unfit = "" if file.is_file() else f"{printable(file)}: is a link to nothing; get its content (datalad get)"
    return Scan(file, name, patient, printable(suffix), fitting[0] if fitting else None, unfit)


def _rows(file: Path) -> Iterator[tuple[int, str]]:
    """Yield index and name of each class."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                if row.get("index") is None or row.get("name") is None:
                    raise DataError(f"{printable(file)}: has no columns index and name, separated by tabs; mend it")
                yield int(row["index"]), printable(row["name"])
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{printable(file)}: cannot be read as a table of classes ({error}); mend it") from None
