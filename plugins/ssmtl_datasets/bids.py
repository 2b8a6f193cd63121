"""BIDS: images by the suffix of their names, patients by `sub-`, label maps from derivatives (bids.neuroimaging.io).

`sub-01/[ses-02/]anat/sub-01_ses-02_run-1_T1w.nii.gz` has the entities sub, ses and run, and the suffix T1w.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib

from ssmtl_datasets.naming import is_label_file, stem
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import did_you_mean, printable

_LABEL = "dseg"
_OWN = {"space", "res", "den", "desc", "label", "seg"}  # entities that a label map has beside those of its image
_SAME_GRID = {"", "orig", "native", "individual"}  # values of `space`; or the suffix of the image


@dataclass(frozen=True)
class LabelMaps:
    """Which label maps to use: those of one folder of derivatives, with these values of entities; "" means any.

    `ending` is the ending of their names: `label-SC_seg`. "" means `dseg` or, if there is none, the only other one.
    """

    pipeline: str
    entities: Mapping[str, str]
    ending: str = ""

    def include(self, entities: Mapping[str, str]) -> bool:
        """Whether a name with these entities is to be used."""
        return all(entities.get(key) == value for key, value in self.entities.items() if value)

    def refuse_missing(self, root: Path, names: Sequence[Mapping[str, str]]) -> None:
        """Refuse a choice by entities that fits none of the label maps, of which these are the entities.

        Raises:
            DataError: there is such a choice.
        """
        for key, value in self.entities.items():
            if value:
                known = sorted({entities[key] for entities in names if entities.get(key)})
                existing = printable(", ".join(known)) or "none"
                raise DataError(
                    f"{printable(root)}: has no label map with {key}-{printable(value)}{did_you_mean(value, known)} "
                    f"(there are: {existing}); omit {key}="
                )


def list_bids(
    root: Path, suffixes: Sequence[str], datatype: str, labels: LabelMaps | None, readers: Readers
) -> list[Scan]:
    """List the images `…_SUFFIX` of all subjects and sessions, each with its label map, if there is one.

    Of several suffixes the images of a session are the channels of one scan, whose label map is that of the first.
    `labels` chooses among several label maps; None: no label maps.

    Raises:
        DataError: `root` is not a BIDS data set, has no such image or derivative, or it is not clear which label map
            to use.
    """
    subjects = _subjects(root)
    images = [file for subject in subjects for file in _images(subject, datatype, readers)]
    suffix = suffixes[0]
    for wanted in suffixes:
        _check_exists(root, wanted, datatype, images)
    named = [file for file in images if _split(file)[1] == suffix]
    others = {_source(_split(file)[0]) for file in images if _split(file)[1] != suffix}
    scans = _labelled(root, named, others, labels, readers)
    twice = [name for name, number in Counter(scan.name for scan in scans).items() if number > 1]
    if twice:
        raise DataError(f"{printable(root)}: has two images {printable(twice[0])}, which BIDS forbids; remove one")
    return [_with_channels(scan, suffixes, images) for scan in scans] if len(suffixes) > 1 else scans


def words(root: Path, suffix: str) -> str:
    """Say what it is, and how many subjects there are."""
    count = len(_subjects(root))
    return f"BIDS, {count} subject{'s' * (count != 1)}, {suffix}"


def _check_exists(root: Path, suffix: str, datatype: str, images: Sequence[Path]) -> None:
    counts = Counter(_split(file)[1] for file in images)
    if suffix not in counts:
        known = ", ".join(f"{name} ({number})" for name, number in counts.most_common(8)) or "none"
        where = f" in {datatype}/" if datatype else ""
        hint = did_you_mean(suffix, counts)
        raise DataError(
            f"{printable(root)}: has no image named …_{printable(suffix)}{where}{hint} (there are: {known})"
        )


def _with_channels(scan: Scan, suffixes: Sequence[str], images: Sequence[Path]) -> Scan:
    """Add the images of the other suffixes: of the same entities, or the only one of this session."""
    if scan.unfit or not scan.path.name.startswith("sub-"):
        return scan
    entities = _split(scan.path)[0]
    more: list[Path] = []
    for suffix in suffixes[1:]:
        of_suffix = [(file, _split(file)[0]) for file in images if _split(file)[1] == suffix]
        same = [file for file, of in of_suffix if of == entities]
        session = [file for file, of in of_suffix if _session(of) == _session(entities)]
        found = same or session
        if len(found) != 1:
            reason = f"has {len(found)} images {suffix} in its session" if found else f"has no image {suffix}"
            todo = f"add it, or use {'+'.join(other for other in suffixes if other != suffix)}"
            return replace(scan, unfit=f"{printable(scan.path)}: {reason}; {todo}")
        more += found
    name, joined = scan.name.rpartition("_")[0], "+".join(suffixes)
    return replace(scan, name=f"{name}_{printable(joined)}", more=tuple(more), contrasts=tuple(suffixes))


def _session(entities: Mapping[str, str]) -> tuple[str, str]:
    return entities.get("sub", ""), entities.get("ses", "")


def _labelled(
    root: Path,
    images: Sequence[Path],
    others: Collection[frozenset[str]],
    labels: LabelMaps | None,
    readers: Readers,
) -> list[Scan]:
    """Pair the images with their label maps; add a note if none is called `dseg` and the choice is not clear."""
    if labels is None:
        return [_scan(file, None) for file in images]
    files = _by_ending(root, labels, readers)
    if labels.ending or _LABEL in files or not files:
        maps = _by_source(files.get(labels.ending or _LABEL, ()))
        return [_scan(file, _label(root, file, maps, others)) for file in images]
    endings = ", ".join(f"{printable(name)} ({len(group)})" for name, group in sorted(files.items()))
    reason = (
        f"{printable(root / 'derivatives')}: has label maps with several endings, {endings}; choose one by maps=ENDING"
    )
    if len(files) == 1:
        try:
            maps = _by_source(*files.values())
            return [_scan(file, _label(root, file, maps, others)) for file in images]
        except DataError as error:  # two for an image: does not matter to those who need no labels
            reason = str(error)
    note = Scan(root / "derivatives", "derivatives", "derivatives", unfit=reason)
    return [*(_scan(file, None) for file in images), note]


def classes_of(root: Path, labels: LabelMaps | None) -> dict[str, tuple[int, ...]]:
    """Return class name -> values from the tables `…dseg.tsv`; empty if there are none, or if they contradict.

    Raises:
        DataError: a table has no columns `index` and `name`, or an index is not an integer.
    """
    if labels is None or labels.ending not in ("", _LABEL):
        return {}
    names: dict[int, str] = {}
    tables = [*sorted(root.glob("*dseg.tsv")), *sorted(_derivatives(root, labels.pipeline, f"*{_LABEL}.tsv"))]
    for file in tables:
        if not labels.include({**labels.entities, **_split(file)[0]}):  # a table may describe all label maps
            continue
        for index, name in _rows(file):
            if names.setdefault(index, name) != name:
                return {}
    classes: dict[str, tuple[int, ...]] = {}
    for index, name in sorted(names.items()):
        if index != 0:
            classes[name] = (*classes.get(name, ()), index)
    return classes


def _subjects(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"{printable(root)}: no such folder; check its path")
    subjects = sorted(path for path in root.glob("sub-*") if path.is_dir())
    if not subjects:
        raise DataError(
            f"{printable(root)}: is not a BIDS data set: it has no folders such as sub-01; give the folder with "
            f"dataset_description.json, or omit `bids:`"
        )
    return subjects


def _images(subject: Path, datatype: str, readers: Readers) -> Iterator[Path]:
    """Yield the images of a subject, inside and outside sessions."""
    for pattern in (f"{datatype or '*'}/sub-*", f"ses-*/{datatype or '*'}/sub-*"):
        yield from sorted(file for file in subject.glob(pattern) if readers.can_read(file))


def _split(file: Path) -> tuple[dict[str, str], str]:
    """Return the entities of a name and its suffix."""
    *pairs, suffix = stem(file.name).split("_")
    entities = (pair.partition("-") for pair in pairs)
    return {key: value for key, _, value in entities}, suffix


def _derivatives(root: Path, pipeline: str, pattern: str) -> Iterable[Path]:
    folder = root / "derivatives"
    if not pipeline:
        return folder.rglob(pattern)
    if not (folder / pipeline).is_dir():
        known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        existing = printable(", ".join(known)) or "none"
        hint = did_you_mean(pipeline, known)
        raise DataError(f"{printable(folder)}: has no folder {printable(pipeline)!r}{hint} (there are: {existing})")
    return (folder / pipeline).rglob(pattern)


def _by_ending(root: Path, labels: LabelMaps, readers: Readers) -> dict[str, list[Path]]:
    """Group the label maps in derivatives by the ending of their names: dseg, label-L_mask, label-SC_seg, seg-manual.

    Raises:
        DataError: none has the requested ending, or values of entities.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    names: list[dict[str, str]] = []
    for file in sorted(_derivatives(root, labels.pipeline, "sub-*")):
        entities, suffix = _split(file)
        if suffix == "probseg" or not is_label_file(file.name) or not readers.can_read(file):
            continue
        names.append(entities)
        if labels.include(entities):
            own = [f"{key}-{entities[key]}" for key in ("label", "desc", "seg") if key in entities]
            groups[_LABEL if suffix == _LABEL else "_".join([*own, suffix])].append(file)
    if not groups:
        labels.refuse_missing(root, names)
    if labels.ending and labels.ending not in groups:
        known = ", ".join(f"{printable(name)} ({len(files)})" for name, files in sorted(groups.items())) or "none"
        hint = did_you_mean(labels.ending, groups)
        ending = printable(labels.ending)
        raise DataError(f"{printable(root)}: has no label map named …_{ending}{hint} (there are: {known})")
    return groups


def _by_source(files: Iterable[Path]) -> dict[frozenset[str], list[Path]]:
    """Group label maps by the entities that they share with their images."""
    groups: dict[frozenset[str], list[Path]] = defaultdict(list)
    for file in files:
        groups[_source(_split(file)[0])].append(file)
    return groups


def _source(entities: dict[str, str]) -> frozenset[str]:
    """Return the entities that a label map inherits from its image."""
    return frozenset(f"{key}-{value}" for key, value in entities.items() if value and key not in _OWN)


def _label(
    root: Path, file: Path, maps: Mapping[frozenset[str], list[Path]], others: Collection[frozenset[str]]
) -> Path | None:
    """Find the label map of an image; `others` are the entities of images with other suffixes that it may belong to."""
    entities, suffix = _split(file)
    source = _source(entities)
    fitting = []
    for label in maps.get(source, []):
        of_label = _split(label)[0]
        space, named = of_label.get("space", ""), [key for key, value in of_label.items() if not value]
        if named and named != [suffix]:  # sub-1_T2w_label-SC_seg belongs to sub-1_T2w
            continue
        if (
            space == suffix
            or (named and space in _SAME_GRID)
            or (space in _SAME_GRID and (source not in others or _may_fit(file, label)))
        ):
            fitting.append(label)
    if len(fitting) > 1:
        first_two = " and ".join(printable(label) for label in fitting[:2])
        raise DataError(
            f"{printable(file)}: has {len(fitting)} label maps, {first_two}; "
            f"{_choices(root, fitting)}, or use none with labels=none"
        )
    return fitting[0] if fitting else None


def _choices(root: Path, labels: list[Path]) -> str:
    """Say which options choose one of the label maps."""
    names = [_split(label)[0] for label in labels]
    ways = [f"{key}=NAME" for key in ("desc", "seg") if len({entities.get(key) for entities in names}) > 1]
    if len({label.relative_to(root / "derivatives").parts[0] for label in labels}) > 1:
        ways.insert(0, "labels=FOLDER (below derivatives)")
    return f"choose by {' or '.join(ways)}" if ways else "remove all but one"


def _may_fit(image: Path, label: Path) -> bool:
    """Whether both have the same shape in their headers, in any order of axes; true if that cannot be determined."""
    try:
        loaded: list[Any] = [nib.load(file) for file in (image, label)]
        shapes = [sorted(each.shape[:3]) for each in loaded]
    except Exception:  # not one of nibabel's formats, or damaged: the reader reports it
        return True
    return shapes[0] == shapes[1]


def _scan(file: Path, label: Path | None) -> Scan:
    entities, suffix = _split(file)
    name, patient = printable(stem(file.name)), f"sub-{printable(entities.get('sub', ''))}"
    unfit = "" if file.is_file() else f"{printable(file)}: is a broken link; get its content (datalad get)"
    return Scan(file, name, patient, printable(suffix), label, unfit, contrasts=(printable(suffix),))


def _rows(file: Path) -> Iterator[tuple[int, str]]:
    """Yield index and name of each class."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                if row.get("index") is None or row.get("name") is None:
                    raise DataError(f"{printable(file)}: has no columns index and name, separated by tabs; fix it")
                yield int(row["index"]), printable(row["name"])
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{printable(file)}: cannot be read as a table of classes ({error}); fix it") from None
