"""What is wrong or odd with the scans of a data set, in words, and whether it would stop a command."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssmtl_toolkit.data.geometry import lengths
from ssmtl_toolkit.data.split import PARTS, Split
from ssmtl_toolkit.data.uneven import unevenness
from ssmtl_toolkit.inspection.seeing import Seen
from ssmtl_toolkit.text import counted, listed, printable

Stops = Literal["", "run", "finetune"]

_PART = re.compile(r"(imagestr|imagests|train(ing)?|tr|val(id(ation)?)?|test(ing)?|te|ts)(_?\d*)", re.IGNORECASE)
_TRAINING = re.compile(r"(images)?tr(ain(ing)?)?", re.IGNORECASE)
_DIFFERENT = 0.01  # of the spacing


@dataclass(frozen=True)
class Problem:
    """Something wrong or odd.

    Attributes:
        kind: a word for it, in JSON.
        what: one line for a person.
        scans: the names of the scans concerned.
        stops: which command it would stop: `run` (and all others), `finetune`, or none.
    """

    kind: str
    what: str
    scans: tuple[str, ...] = ()
    stops: Stops = ""


def problems_of(seen: Sequence[Seen], split: Split | None = None) -> list[Problem]:
    """List everything wrong with the scans; what would stop a command comes first."""
    usable = [one for one in seen if not one.problem]
    found = [*_unreadable(seen), *_uneven(usable), *_differing_channels(usable), *_labels(usable)]
    for look in (_spacings, _axes, _copies, _blank, _label_maps, _lonely, _notes):
        found += look(usable)
    found += _parts_by_folder(seen)
    if split is not None:
        found += _parts_by_split(seen, split)
    return sorted(found, key=lambda problem: ("run", "finetune", "").index(problem.stops))


def _unreadable(seen: Sequence[Seen]) -> Iterator[Problem]:
    for one in seen:
        if one.problem:
            yield Problem("unreadable", one.problem, (one.scan.name,), "run")
    if not any(not one.problem for one in seen):
        yield Problem("nothing", "no scan can be used", stops="run")


def _uneven(usable: Sequence[Seen]) -> Iterator[Problem]:
    for one in usable:
        assert one.header is not None
        if what := unevenness(one.header.affine, one.header.slice_axis, one.header.positions):
            todo = "--prepare resample makes it even, as proposed"
            yield Problem("uneven", f"{printable(one.scan.path)}: {what}; {todo}", (one.scan.name,), "run")


def _differing_channels(usable: Sequence[Seen]) -> Iterator[Problem]:
    by_number: dict[int, list[str]] = defaultdict(list)
    for one in usable:
        assert one.header is not None
        by_number[one.header.channels].append(one.scan.name)
    if len(by_number) > 1:
        counts = ", ".join(
            f"{counted(len(names), 'scan')} with {counted(number, 'channel')}"
            for number, names in sorted(by_number.items())
        )
        fewest = min(by_number.values(), key=len)
        what = f"the scans differ in their channels: {counts}; one network takes one number, such as {fewest[0]}"
        yield Problem("channels", what.replace(", such as", "; the odd one is"), tuple(fewest), "run")


def _labels(usable: Sequence[Seen]) -> Iterator[Problem]:
    for one in usable:
        if one.label_problem:
            yield Problem("label", one.label_problem, (one.scan.name,), "finetune")


def _spacings(usable: Sequence[Seen]) -> Iterator[Problem]:
    odd = []
    for one in usable:
        assert one.header is not None
        along = np.array(lengths(one.header.affine))
        if (abs(np.array(one.header.spacing) / along - 1) > _DIFFERENT).any():
            odd.append((one, along))
    if odd:
        one, along = odd[0]
        assert one.header is not None
        names = tuple(other.scan.name for other, _ in odd)
        both = f"{_mm(one.header.spacing)} and {_mm(along.tolist())}"
        yield Problem(
            "spacing", f"spacing and affine differ in {_scans(names)} ({both} mm); the spacing is used", names
        )


def _axes(usable: Sequence[Seen]) -> Iterator[Problem]:
    axes = Counter(one.axis for one in usable)
    if len(axes) > 1:
        most, _ = axes.most_common(1)[0]
        names = tuple(one.scan.name for one in usable if one.axis != most)
        counts = ", ".join(f"{number} {axis}" for axis, number in axes.most_common())
        yield Problem("axes", f"the scans were acquired along different axes ({counts}); choose one with --axis", names)


def _copies(usable: Sequence[Seen]) -> Iterator[Problem]:
    same: dict[str, list[Seen]] = defaultdict(list)
    for one in usable:
        if one.look is not None:
            same[one.look.digest].append(one)
    for copies in same.values():
        if len(copies) > 1:
            names = tuple(one.scan.name for one in copies)
            patients = len({one.scan.patient for one in copies})
            whose = f", of {patients} patients by their names" if patients > 1 else ""
            yield Problem("copies", f"{listed(names, 4)} have equal voxels{whose}; a run uses the first", names)


def _blank(usable: Sequence[Seen]) -> Iterator[Problem]:
    whole = [one for one in usable if one.look and one.look.one_value]
    for one in whole:
        assert one.look is not None
        what = f"{printable(one.scan.path)}: is blank: all voxels are {one.look.low:g}"
        yield Problem("blank", what, (one.scan.name,), "run")
    looks = {one.scan.name: one.look for one in usable if one.look and one not in whole}
    for kind, counts, words in (
        ("blank slices", {name: look.blank for name, look in looks.items()}, "have a single value"),
        ("nearly blank slices", {name: look.nearly_blank for name, look in looks.items()}, "hardly vary"),
    ):
        names = tuple(name for name, count in counts.items() if count)
        if names:
            total = sum(counts.values())
            yield Problem(kind, f"{counted(total, 'slice')} of {_scans(names)} {words}", names)


def _label_maps(usable: Sequence[Seen]) -> Iterator[Problem]:
    alike = [one for one in usable if one.is_label_map]
    if alike:
        names = tuple(one.scan.name for one in alike)
        reason = alike[0].look.like_labels if alike[0].look else ""
        what = f"{_scans(names)} {'looks' if len(names) == 1 else 'look'} like label maps ({reason}); a run skips them"
        yield Problem("label maps", what, names, "run" if only_label_maps(usable) else "")


def only_label_maps(seen: Sequence[Seen]) -> bool:
    """Whether all scans whose voxels were read look like label maps."""
    looked = [one for one in seen if one.look and not one.look.one_value]
    return bool(looked) and all(one.is_label_map for one in looked)


def _lonely(usable: Sequence[Seen]) -> Iterator[Problem]:
    names = tuple(one.scan.name for one in usable if one.grid[0] < 2)
    if names:
        yield Problem("single slices", f"{_scans(names)}: only one slice, so no pairs", names)


def _notes(usable: Sequence[Seen]) -> Iterator[Problem]:
    """What readers found odd, alike notes together."""
    texts: dict[str, list[str]] = defaultdict(list)
    for one in usable:
        for note in one.header.notes if one.header else ():
            if "the affine's" not in note and "its spacing and that of its affine" not in note:  # as `_spacings` says
                texts[note].append(one.scan.name)
    for note, names in texts.items():
        yield Problem("note", f"{_scans(tuple(names))}: {note}", tuple(names))


def _parts_by_folder(seen: Sequence[Seen]) -> Iterator[Problem]:
    """Patients whose scans lie in folders of several parts, such as train/ and test/."""

    def part(one: Seen) -> str:
        folders = [folder for folder in one.scan.path.parts[:-1][-4:] if _PART.fullmatch(folder)]
        return "train" if folders and _TRAINING.fullmatch(folders[-1]) else folders[-1].lower() if folders else ""

    yield from _in_two_parts(seen, part, "the folders")


def _parts_by_split(seen: Sequence[Seen], split: Split) -> Iterator[Problem]:
    """Scans with equal voxels on two sides of a split, and patients that are missing."""
    part_of = {patient: part for part in PARTS for patient in getattr(split, part)}
    missing = sorted(set(part_of) - {one.scan.patient for one in seen})
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        what = f"{counted(len(missing), 'patient')} of the split, such as {missing[0]}, {verb} not in the data"
        yield Problem("split", what, tuple(missing), "finetune")
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for one in seen:
        if one.look and one.scan.patient in part_of:
            sides[one.look.digest][part_of[one.scan.patient]] = one.scan.name
    for names in sides.values():
        if len(names) > 1:
            what = f"{' and '.join(f'{name} ({part})' for part, name in names.items())} have equal voxels"
            yield Problem("split", f"{what}: one patient in two parts of the split", tuple(names.values()))


def _in_two_parts(seen: Sequence[Seen], part: Callable[[Seen], str], where: str) -> Iterator[Problem]:
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for one in seen:
        if its_part := part(one):
            words = [word for word in one.scan.patient.split("/") if not _PART.fullmatch(word)]
            parts["/".join(words)].setdefault(its_part, one.scan.name)
    both = {patient: names for patient, names in parts.items() if len(names) > 1}
    if both:
        patient, names = next(iter(both.items()))
        what = (
            f"{counted(len(both), 'patient')}, such as {patient}, by {where} in {' and '.join(names)}: "
            f"what is tested on would be trained on"
        )
        yield Problem("two parts", what, tuple(name for names in both.values() for name in names.values()))


def _scans(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} scans (such as {names[0]})"


def _mm(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
