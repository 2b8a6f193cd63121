"""Splits several images at each position into volumes by their headers, or refuses them if that is not enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from ssmtl_formats.attributes import FIXED, FREE, KINDS, Attribute, Value
from ssmtl_formats.headers import Frame
from ssmtl_toolkit.data.source import FileError

Places = list[list[Frame]]  # for each position its images
Key = Callable[[Frame], Any]

_SAME_DIRECTION = 0.01


def divided(places: Places, notes: list[str]) -> list[list[Frame]]:
    """Return the volumes, each with one image for each position, in the order of FIXED's numbers, then of acquisition.

    Images of a volume agree in all of FIXED. Images at one position that agree in all of it are distinguished by other
    attributes that have the same values at each position, by the order of times, or by regular instance numbers.

    Args:
        places: for each position its images, equally many.
        notes: receives anything unusual.

    Raises:
        FileError: images of different volumes would be mixed, or nothing distinguishes them.
    """
    alike = merged([frame for place in places for frame in place])

    def fixed(frame: Frame) -> tuple[Value, ...]:
        return tuple(same[value] for same, value in zip(alike, frame.marks.fixed, strict=True))

    _check_whole(places, fixed)
    groups = _split([places], fixed)
    for key, ranked in _others(places):
        groups = _split(groups, key, ranked)
    groups = [volume for group in groups for volume in _by_numbers(group, notes)]
    volumes = [[place[0] for place in group] for group in groups]

    def order(volume: list[Frame]) -> tuple[Any, ...]:
        echo, *numbers = (value for value in fixed(volume[0]) if isinstance(value, float))
        return (echo or math.inf, *numbers, min(frame.acquired for frame in volume))

    return sorted(volumes, key=order)


def merged(frames: Sequence[Frame]) -> list[dict[Value, Value]]:
    """Return for each of FIXED the value that stands for each value: the first of those that are almost equal."""
    return [_as_good_as({frame.marks.fixed[i] for frame in frames}, attribute) for i, attribute in enumerate(FIXED)]


def _as_good_as(values: set[Value], attribute: Attribute) -> dict[Value, Value]:
    same: dict[Value, Value] = {}
    first: list[Any] = []
    for value in sorted(values):
        near = (other for other in reversed(first) if _near(other, value, attribute.tolerance))
        same[value] = next(near, value)
        if same[value] == value:
            first.append(value)
    return same


def _near(known: Any, value: Any, tolerance: float) -> bool:
    if isinstance(known, tuple):
        return len(known) == len(value) and all(
            abs(a - b) <= _SAME_DIRECTION * max(map(abs, known)) for a, b in zip(known, value, strict=True)
        )
    return isinstance(known, float) and abs(value - known) <= tolerance * abs(value)


def _others(places: Places) -> Iterator[tuple[Key, bool]]:
    """Yield what else may distinguish volumes, and whether only the order of its values counts."""
    times = min(len(frame.marks.times) for place in places for frame in place)
    yield from ((_nth("fixed", i), False) for i in range(len(FIXED)))  # without tolerance
    yield from ((_nth("times", i), True) for i in range(times))
    yield from ((_nth("free", i), False) for i in range(len(FREE)))


def _nth(marks: str, i: int) -> Key:
    return lambda frame: getattr(frame.marks, marks)[i]


def _split(groups: list[Places], key: Key, ranked: bool = False) -> list[Places]:
    """Split each group in which all positions have the same values, or ranks of values, and several of them."""
    split = []
    for group in groups:
        values = [[key(frame) for frame in place] for place in group]
        if ranked:
            values = [[sorted(set(row)).index(value) for value in row] for row in values]
        if len(group[0]) > 1 and all(Counter(row) == Counter(values[0]) for row in values):
            for value in dict.fromkeys(values[0]):
                split.append(
                    [
                        [frame for frame, its in zip(place, row, strict=True) if its == value]
                        for place, row in zip(group, values, strict=True)
                    ]
                )
        else:
            split.append(group)
    return split


def _check_whole(places: Places, fixed: Key) -> None:
    """Require that all positions have images of the same echo times, b-values, kinds and so on."""
    keys = [[fixed(frame) for frame in place] for place in places]
    if all(Counter(row) == Counter(keys[0]) for row in keys):
        return
    names = []
    for i, attribute in enumerate(FIXED):
        columns = zip(*(sorted(key[i] for key in row) for row in keys), strict=True)
        column = next((values for values in columns if len(set(values)) > 1), None)
        if column:
            values = _shown(min(column), max(column))
            names = [attribute.name + (f" ({values})" if values else "")]
            break
        if len({key[i] for row in keys for key in row}) > 1:
            names.append(attribute.name)
    raise FileError(
        f"mixes images of different {' and '.join(names)} in one volume: several series in one, or an incomplete one; "
        f"export it again"
    )


def _shown(low: Any, high: Any) -> str:
    """Show two values; of texts only words in KINDS, since others may be anything."""
    if isinstance(low, float):
        return f"{low:g} and {high:g}"
    if isinstance(low, tuple):
        return " and ".join(
            "(" + ", ".join(f"{x:.3g}" for x in value) + ")" if value else "none" for value in (low, high)
        )
    first, second = low.split("\\"), high.split("\\")
    words = [[word for word in a if word not in b] for a, b in ((first, second), (second, first))]
    known = ["\\".join(word for word in only if word in KINDS) for only in words]
    return " and ".join(known) if all(known) else ""


def _by_numbers(group: Places, notes: list[str]) -> list[Places]:
    """Distinguish images by instance numbers, if these increase by the same steps at each position.

    Raises:
        FileError: they do not.
    """
    many = len(group[0])
    if many == 1:
        return [group]
    ordered = [sorted(place, key=lambda frame: frame.instance_number) for place in group]
    steps = [[_step(a, b) for a, b in pairwise(place)] for place in ordered]
    if any(row != steps[0] for row in steps) or (0, 0) in steps[0]:
        raise FileError(
            f"has {many} images at each position that nothing in their headers tells apart (no echo time, b-value, "
            f"direction, kind or time differs), so that volumes would be mixed; export each as its own series"
        )
    volumes = [[[place[i]] for place in ordered] for i in range(many)]
    ends = [[place[0].instance_number for place in volume] for volume in volumes]
    note = "its volumes are told apart by instance numbers alone"
    if note not in notes and any(max(a) > min(b) for a, b in pairwise(ends)):  # not one after the other
        notes.append(note)
    return volumes


def _step(frame: Frame, following: Frame) -> tuple[int, int]:
    (number, index), (next_number, next_index) = frame.instance_number, following.instance_number
    return next_number - number, next_index - index
