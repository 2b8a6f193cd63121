"""Label classes: which values in label maps mean which class, and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.text import did_you_mean, listed, printable

IGNORE = 255
"""The class index of pixels that nobody has annotated: they count in no loss and no score."""

Others = Literal["refuse", "background"]
"""What becomes of values that no class, no background value and no ignore value accounts for."""

_MOST_CLASSES = 254  # 0 is the background, 255 is IGNORE
_VALUE = re.compile(r"-?\d+", re.ASCII)
_INT32 = np.iinfo(np.int32)
_SHOWN = 5


@dataclass(frozen=True)
class LabelClass:
    """A class: its name and the values that it has in label files. Predictions write the first of them."""

    name: str
    values: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}={'+'.join(map(str, self.values))}"


@dataclass(frozen=True)
class Classes:
    """The classes of label maps. The background is value 0 and index 0; `classes[i]` has index i + 1.

    Classes may overlap, as nnU-Net's regions do: `whole=1+2+3,core=2+3`. An index then stands for a cell, the values
    that belong to the same classes: 1 is in `whole` alone, 2 and 3 are in both. Without an overlap the cells are the
    classes.

    Attributes:
        classes: at most 254; their names are all different, and so are their sets of values.
        background: further values that count as background, because they were not chosen.
        ignore: the value that means "nobody annotated this".
        known: the names, with their values, that the classes were chosen from; empty: they are all there are. By these
            label files that name their classes are read, however they number them (`data/named.py`).

    Raises:
        UsageError: a name or a set of values is there twice, a class has the value 0 or `ignore`, or they are too many.
    """

    classes: tuple[LabelClass, ...]
    background: tuple[int, ...] = ()
    ignore: int | None = None
    known: tuple[LabelClass, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart or written."""
        if len(self.classes) > _MOST_CLASSES:
            raise UsageError(
                f"{len(self.classes)} classes are more than the {_MOST_CLASSES} possible; choose some by --classes"
            )
        for name, count in Counter(self.names).items():
            if count > 1:
                raise UsageError(f"class {name!r} is given {count} times; give it once, its values joined by +")
        for one in self.classes:
            self._check(one)
        self._check_values()
        if len(self.cells) > _MOST_CLASSES:
            raise UsageError(
                f"{len(self.cells)} parts of overlapping classes are more than the {_MOST_CLASSES} possible"
            )
        for value in (*(v for c in self.classes for v in c.values), *self.background, self.ignore or 0):
            if not _INT32.min <= value <= _INT32.max:
                raise UsageError(f"the label value {value} does not fit into 32 bits; choose another")

    def _check_values(self) -> None:
        same: dict[frozenset[int], str] = {}
        for one in self.classes:
            if twice := [value for value, count in Counter(one.values).items() if count > 1]:
                raise UsageError(f"class {str(one)!r} has the label value {twice[0]} twice; give it once")
            other = same.setdefault(frozenset(one.values), one.name)
            if other != one.name:
                raise UsageError(f"classes {other!r} and {one.name!r} have the same label values; omit one of them")

    def _check(self, one: LabelClass) -> None:
        if not one.name or not one.values:
            raise UsageError(f"class {str(one)!r} has no name or no value; write it as name=value")
        if 0 in one.values:
            raise UsageError(f"class {str(one)!r} has the value 0, which is the background; leave 0 out")
        if self.ignore in one.values:
            raise UsageError(f"class {str(one)!r} has the value {self.ignore}, which means not annotated; leave it out")

    @classmethod
    def parse(cls, text: str, known: Mapping[str, tuple[int, ...]] = {}, ignore: int | None = None) -> Classes:
        """Read classes from text: `LV=500,RV=600,LA=420+421`, or by names that the dataset knows.

        With `known` names, `LV,RV` chooses, `ventricle=LV` renames, `ventricles=LV+RV` merges, and what is not chosen
        becomes background; an empty text chooses all. A number alone, `500`, is a class of that name.

        Raises:
            UsageError: naming the class that cannot be, and the known ones.
        """
        pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
        chosen = [_read_class(piece, known) for piece in pieces]
        if not pieces:
            chosen = [LabelClass(printable(name), values) for name, values in known.items() if values != (ignore,)]
        if not chosen:
            raise UsageError("no class is named; write name=value for each, as in LV=500,RV=600")
        taken = {0, ignore, *(value for one in chosen for value in one.values)}
        rest = {value for values in known.values() for value in values} - taken
        names = tuple(LabelClass(printable(name), tuple(values)) for name, values in known.items())
        return cls(tuple(chosen), tuple(sorted(rest)), ignore, () if names == tuple(chosen) else names)

    @classmethod
    def of_values(cls, values: Iterable[int], ignore: int | None = None) -> Classes:
        """Make a class of each value but 0 and `ignore`, named by its number: for files that say nothing else."""
        wanted = sorted({int(value) for value in values} - {0, ignore})
        return cls(tuple(LabelClass(str(value), (value,)) for value in wanted), (), ignore)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of their indices, without the background."""
        return tuple(one.name for one in self.classes)

    @property
    def by_name(self) -> dict[str, tuple[int, ...]]:
        """The values of each name by which label files may call them; of classes that share values none."""
        names = self.known or self.classes
        shared = max(Counter(value for one in names for value in one.values).values(), default=1) > 1
        return {} if shared else {one.name: one.values for one in names}

    @property
    def overlap(self) -> bool:
        """Whether a value belongs to several classes."""
        return any(len(owners) > 1 for owners in self._owners.values())

    @cached_property
    def _owners(self) -> dict[int, tuple[int, ...]]:
        """For each value the numbers of its classes, in the order of the classes."""
        owners: dict[int, tuple[int, ...]] = {}
        for i, one in enumerate(self.classes):
            for value in one.values:
                owners[value] = (*owners.get(value, ()), i)
        return owners

    @cached_property
    def cells(self) -> tuple[tuple[int, ...], ...]:
        """The values of each index from 1 on; a prediction writes the first of them."""
        found: dict[tuple[int, ...], tuple[int, ...]] = {}
        for value, owners in self._owners.items():
            found[owners] = (*found.get(owners, ()), value)
        return tuple(found.values())

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """Which indices belong to which class: (classes, cells + 1); the first column, the background, is False."""
        owners = [(), *(self._owners[cell[0]] for cell in self.cells)]
        return np.array([[i in those for those in owners] for i in range(len(self))], bool).reshape(len(self), -1)

    @cached_property
    def without(self) -> NDArray[np.uint8]:
        """For each class, what each index becomes that is no longer of it: (classes, cells + 1).

        That is the cell with most of its other classes and no further ones, of equal ones the first; without an overlap
        it is the background.
        """
        table = np.tile(np.arange(len(self.cells) + 1, dtype=np.uint8), (len(self), 1))
        for number, cell in np.argwhere(self.members):
            others = self.members[:, cell] & (np.arange(len(self)) != number)
            further = (self.members & ~others[:, None]).any(axis=0)
            table[number, cell] = np.where(further, -1, self.members.sum(axis=0)).argmax()
        return table

    @property
    def parts(self) -> Classes:
        """Classes that do not overlap: the cells, each called by the names of its classes with & between them."""
        named = zip(self.cells, self.members.T[1:], strict=True)
        parts = [LabelClass("&".join(compress(self.names, owned)), cell) for cell, owned in named]
        return Classes(tuple(parts), self.background, self.ignore, self.known or self.classes) if self.overlap else self

    def __len__(self) -> int:
        return len(self.classes)

    def __str__(self) -> str:
        return ",".join(map(str, self.classes))

    def to_index(
        self, values: NDArray[Any], where: str, others: Others = "refuse"
    ) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
        """Turn label values (…, K), any integers, into class indices, `IGNORE` where the value is `ignore`.

        Returns:
            The indices, and the values assigned to no class: with `others="background"` they are 0.

        Raises:
            DataError: there are such values and `others` is "refuse"; naming `where`, the values and their voxels.
        """
        indices = {0: 0, **dict.fromkeys(self.background, 0)}
        indices |= {value: i for i, cell in enumerate(self.cells, 1) for value in cell}
        if self.ignore is not None:
            indices[self.ignore] = IGNORE
        known = np.array(sorted(indices), np.int64)
        index = np.array([indices[int(value)] for value in known], np.uint8)
        out = np.zeros_like(values, np.uint8)
        unknown: Counter[int] = Counter()
        for k in range(values.shape[-1]):  # a slice at a time: places are 8 bytes a voxel
            part = values[..., k]
            place = np.searchsorted(known, part).clip(max=len(known) - 1)
            hit = known[place] == part
            out[..., k] = np.where(hit, index[place], 0)
            if not hit.all():
                unknown += _counts(part[~hit])
        if unknown and others == "refuse":
            raise self.unknown(unknown, where)
        return out, tuple(sorted(unknown))

    def unknown(self, unknown: Mapping[int, int], where: str) -> DataError:
        """The error that says which values are assigned to no class, by the number of voxels that have each."""
        counted = listed((f"{value} ({count} voxels)" for value, count in sorted(unknown.items())), _SHOWN)
        return DataError(
            f"{where}: contains label values assigned to no class: {counted}; the classes are {self}: "
            f"add the missing ones to --classes, or say by --ignore-value which value means not annotated"
        )

    def to_values(self, index: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn class indices back into label values, uint8 or uint16, whichever is the smallest that holds them all.

        It is int32 where a value is negative or larger. `IGNORE` becomes `ignore`.
        """
        written = [0, *(cell[0] for cell in self.cells)]
        largest = int(index.max(initial=0))
        unannotated = largest == IGNORE
        if unannotated and self.ignore is None:
            raise ValueError("the index IGNORE cannot be written: no ignore value is given")
        if unannotated:
            written += [0] * (IGNORE - len(written)) + [int(self.ignore or 0)]
        elif largest >= len(written):
            raise ValueError(f"index {largest} is no class: there are {len(self.cells)}")
        fitting = (t for t in (np.uint8, np.uint16) if min(written) >= 0 and max(written) <= np.iinfo(t).max)
        return np.array(written, next(fitting, np.int32))[index]

    def to_json(self) -> dict[str, Any]:
        """Write as plain lists and dicts, for metadata."""
        written = {"classes": _to_json(self.classes), "background": list(self.background), "ignore": self.ignore}
        return {**written, "known": _to_json(self.known)} if self.known else written

    @classmethod
    def from_json(cls, content: Any, where: str = "metadata") -> Classes:
        """Read what `to_json` wrote.

        Raises:
            DataError: it is something else; naming `where`.
        """
        try:
            classes, known = _from_json(content["classes"]), _from_json(content.get("known", []))
            ignore = content["ignore"]
            return cls(classes, tuple(map(int, content["background"])), None if ignore is None else int(ignore), known)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
            raise DataError(
                f"{where}: its classes cannot be read ({type(error).__name__}: {error}); write the file again"
            ) from None


def _to_json(classes: Iterable[LabelClass]) -> list[dict[str, Any]]:
    return [{"name": one.name, "values": list(one.values)} for one in classes]


def _from_json(content: Any) -> tuple[LabelClass, ...]:
    return tuple(LabelClass(printable(str(one["name"])), tuple(map(int, one["values"]))) for one in content)


def _read_class(piece: str, known: Mapping[str, tuple[int, ...]]) -> LabelClass:
    """Read `name`, `name=value+value` or `name=known+known`."""
    if piece in known or _VALUE.fullmatch(piece):
        return LabelClass(printable(piece), _read_values(piece, piece, known))
    name, equals, right = (part.strip() for part in piece.partition("="))
    if not equals:
        raise UsageError(_no_class(piece, piece, known))
    parts = [right] if right in known else [part.strip() for part in right.split("+")]
    return LabelClass(printable(name), tuple(value for part in parts for value in _read_values(part, piece, known)))


def _read_values(part: str, piece: str, known: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    if part in known:
        return tuple(known[part])
    if not _VALUE.fullmatch(part):
        raise UsageError(_no_class(part, piece, known))
    return (int(part),)


def _no_class(part: str, piece: str, known: Mapping[str, tuple[int, ...]]) -> str:
    if not known:
        return f"class {printable(piece)!r}: {printable(part)!r} is no label value; write name=value, as in LV=500"
    other_case = [name for name in known if name.casefold() == part.casefold()]
    near = f"; did you mean {other_case[0]!r}?" if other_case else did_you_mean(part, known)
    every = ", ".join(str(LabelClass(printable(name), tuple(values))) for name, values in known.items())
    return f"class {printable(piece)!r}: no class {printable(part)!r}{near} (known: {every}); or write name=value"


def _counts(values: NDArray[Any]) -> Counter[int]:
    return Counter(dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True)))
