"""Label files that name their classes themselves: one class for each name, however each file numbers its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import listed, printable

Named = Mapping[str, tuple[int, ...]]
"""For each class of a label file, by its name there, the values that it has in the file."""

_GENERIC = re.compile(r"(segment|label|class|roi|region|structure|value)?[ _#-]*\d+")
_SHOWN = 8


def clean(name: str) -> str:
    """A name as it is shown and chosen by: printable, in one line, without the `,` and `=` of --classes."""
    return printable(" ".join(re.sub("[,=]", " ", name).split()))


def key(name: str) -> str:
    """What two names have in common that mean the same class: case, blanks and underscores do not count."""
    return re.sub(r"[\s_-]+", " ", clean(name)).strip().casefold()


@dataclass(frozen=True)
class Merged:
    """The classes of several label files.

    Attributes:
        classes: name -> values; empty if no file names its classes.
        agreed: whether the files have these values themselves.
        note: what the classes are, and how many files have each, in words.
    """

    classes: dict[str, tuple[int, ...]]
    agreed: bool = True
    note: str = ""


def merged(files: Iterable[Path], classes_of: Callable[[Path], Named]) -> Merged:
    """Make one class of each name in label files; without a file that has names: nothing.

    If the files agree, the classes have the values that they have in the files; otherwise they are numbered by name,
    and `renumbered` translates each file.

    Raises:
        DataError: some files name classes and number them differently, and another file names none.
    """
    found: dict[str, str] = {}
    numbered: dict[str, set[tuple[int, ...]]] = {}
    shown: Counter[str] = Counter()
    nameless: list[Path] = []
    files = list(files)
    for file in files:
        own = by_key(classes_of(file), file)
        if not own:
            nameless.append(file)
        for name, (spelled, own_values) in own.items():
            found.setdefault(name, spelled)
            numbered.setdefault(name, set()).add(own_values)
            shown[name] += 1
    if not found:
        return Merged({})
    agreed = _agreed(numbered)
    if agreed is None and nameless:
        raise DataError(
            f"{printable(nameless[0])}: does not name its classes, and the other label files, which do, number them "
            f"differently; give labels that all name their classes, or all have the same values"
        )
    values = agreed or {name: (i,) for i, name in enumerate(sorted(found), start=1)}
    order = sorted(found, key=values.__getitem__)
    entries = [f"{found[name]}={'+'.join(map(str, values[name]))} (in {shown[name]} of {len(files)})" for name in order]
    how = "" if agreed else ", which number them differently: values are given by name"
    every = listed(entries, _SHOWN)
    note = f"label classes by the names in the label files{how}: {every}; --classes chooses among them"
    return Merged({found[name]: values[name] for name in order}, agreed is not None, note)


def by_key(classes: Named, file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The classes of a file by what identifies them: the name as it is shown, and all values, in order.

    Raises:
        DataError: one value has two names.
    """
    own: dict[str, tuple[str, tuple[int, ...]]] = {}
    owner: dict[int, str] = {}
    for name, values in classes.items():
        spelled, others = own.get(key(name), (clean(name) or "unnamed", ()))
        own[key(name)] = spelled, tuple(sorted({*others, *values}))
        for value in values:
            if owner.setdefault(value, key(name)) != key(name):
                raise DataError(f"{printable(file)}: calls the value {value} both {owner[value]!r} and {clean(name)!r}")
    return own


def _agreed(numbered: Mapping[str, set[tuple[int, ...]]]) -> dict[str, tuple[int, ...]] | None:
    """The values of each name if all files that have it agree, and no value means two names; None otherwise."""
    if any(len(ways) > 1 for ways in numbered.values()):
        return None
    agreed = {name: next(iter(ways)) for name, ways in numbered.items()}
    every = Counter(value for values in agreed.values() for value in values)
    return agreed if max(every.values()) == 1 else None


def renumbered(label: Volume, own: Named, classes: Classes, file: Path) -> Volume:
    """Give the voxels of a label file the values that `classes` has for the names in the file, as `renumbering` says.

    Raises:
        DataError: naming the file and the name that contradicts `classes`.
    """
    table = renumbering(own, classes, file)
    if not table:
        return label
    array = np.zeros(label.array.shape, np.int32)
    for here in np.unique(label.array).tolist():
        array[label.array == here] = table.get(int(here), int(here))
    return replace(label, array=array)


def renumbering(own: Named, classes: Classes, file: Path) -> dict[int, int]:
    """For values of a label file those that `classes` has for their names in the file; all others stay.

    A name that `classes` does not know keeps its value, unless that value is another class: then only a name that says
    nothing (`Segment_2`) is accepted.

    Raises:
        DataError: naming the file and the name that contradicts `classes`.
    """
    known = {key(name): values for name, values in classes.by_name.items()}
    table: dict[int, int] = {}
    unknown: dict[int, str] = {}
    for name, (spelled, own_values) in by_key(own, file).items():
        for value in own_values:
            if name not in known:
                unknown[value] = spelled
            elif value not in known[name]:
                table[value] = known[name][0]
    taken = {value: name for name, values in classes.by_name.items() for value in values}
    for value, spelled in unknown.items():
        generic = _GENERIC.fullmatch(key(spelled)) and value not in table.values()
        if value in taken and not generic:
            raise DataError(
                f"{printable(file)}: calls its value {value} {spelled!r}, and elsewhere that value is "
                f"{taken[value]!r}; the classes are {listed(classes.by_name, _SHOWN)}: rename the segment to one of "
                f"them, or remove it"
            )
    return table
