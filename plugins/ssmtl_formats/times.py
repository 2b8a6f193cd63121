"""How many ms lie between the volumes of a series, by whichever of its headers' times tells them apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np

from ssmtl_formats.attributes import FIXED, FREE, TIMES
from ssmtl_formats.headers import Frame
from ssmtl_formats.volumes import merged
from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.text import listed

_UNEVEN = 0.1  # of the usual distance: greater deviations are worth a note
_IN_TIME = ("temporal positions", "flip angles")  # attributes of FIXED in which the frames of one sequence may differ
_MOMENT = re.compile(r"(\d{8})?(\d{2})(\d{2})(\d{2})(\.\d{1,6})?")

Volumes = Sequence[Sequence[Frame]]


def check_in_time(volumes: Volumes) -> None:
    """Refuse volumes that differ in more than time.

    Raises:
        FileError: naming in what.
    """
    values = merged([volume[0] for volume in volumes])
    differ = [
        attribute.name
        for attribute, same in zip(FIXED, values, strict=True)
        if attribute.name not in _IN_TIME and len(set(same.values())) > 1
    ]
    if differ:
        raise FileError(
            f"has volumes of different {listed(differ, 3)}, which are no sequence in time; export each as a series, or "
            f"choose by --volume without --axis time"
        )


def frame_ms(volumes: Volumes, notes: list[str]) -> float:
    """Return the usual distance between volumes, in ms, with a note if others differ from it; 0 if unknown."""
    for name, time in _SOURCES:
        moments = np.array([[time(frame) for frame in volume] for volume in volumes])
        steps = np.diff(moments, axis=0)
        if not (len(steps) and np.isfinite(steps).all() and (steps > 0).all()):
            continue
        usual = float(np.median(steps))
        if abs(steps - usual).max() > _UNEVEN * usual:
            notes.append(
                f"its frames are unevenly spaced in time: {steps.min():.4g} to {steps.max():.4g} ms by {name}; "
                f"{usual:.4g} ms is taken"
            )
        return usual
    return _by_repetition(volumes, notes)


def _by_repetition(volumes: Volumes, notes: list[str]) -> float:
    """The repetition time, where volumes are numbered in time."""
    marks = volumes[0][0].marks
    if not (marks.fixed and marks.fixed[_index(FIXED, "temporal positions")]):
        return 0.0
    repetition = marks.free[_index(FREE, "repetition times")]
    if not isinstance(repetition, float) or repetition <= 0:
        return 0.0
    notes.append(f"has no times of its frames; the repetition time {repetition:.4g} ms is taken between them")
    return repetition


def _index(attributes: Sequence[object], name: str) -> int:
    return [getattr(attribute, "name", "") for attribute in attributes].index(name)


def _number(name: str) -> Callable[[Frame], float]:
    i = _index(TIMES, name)

    def time(frame: Frame) -> float:
        value = frame.marks.times[i] if frame.marks.times else 0.0
        return value if isinstance(value, float) else np.nan

    return time


def _moment(frame: Frame) -> float:
    """The date and time of acquisition in ms; NaN if missing."""
    i = _index(TIMES, "times")
    match = _MOMENT.match(str(frame.marks.times[i])) if frame.marks.times else None
    if match is None:
        return np.nan
    try:
        day = datetime.strptime(match[1] or "20000101", "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return np.nan
    seconds = 3600 * int(match[2]) + 60 * int(match[3]) + int(match[4]) + float(match[5] or 0)
    return 1000.0 * (day.timestamp() + seconds)


_SOURCES: tuple[tuple[str, Callable[[Frame], float]], ...] = (
    ("trigger time", _number("trigger times")),
    ("frame time", lambda frame: frame.cine_ms),
    ("frame reference time", _number("frame times")),
    ("acquisition time", _moment),
)
