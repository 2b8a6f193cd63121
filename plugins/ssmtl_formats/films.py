"""What a film says of its frames: how large their pixels are, how thick the slice is, and when they are shown."""

from __future__ import annotations

import contextlib

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ssmtl_formats.fields import Vector, numbers, within
from ssmtl_toolkit.data.source import FileError

FILM = "a multi-frame image without positions"


def placed_nowhere(data: Dataset) -> tuple[Dataset, str]:
    """A functional group that places all frames at one position, and what is to be noted of it."""
    pixel = _pixel(data)
    placed = Dataset()
    placed.PixelSpacing, placed.ImageOrientationPatient = list(pixel or (1.0, 1.0)), [1, 0, 0, 0, 1, 0]
    placed.ImagePositionPatient = [0, 0, 0]
    group = Dataset()
    for sequence in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence"):
        setattr(group, sequence, [placed])
    return group, "says nothing of where it lies" + ("" if pixel else ", nor how large its pixels are: 1 mm is assumed")


def _pixel(data: Dataset) -> Vector:
    """The mm between rows and columns; () if unknown."""
    spacing = numbers([data], "PixelSpacing", 2, ()) or numbers([data], "ImagerPixelSpacing", 2, ())
    for region in [] if spacing else data.get("SequenceOfUltrasoundRegions") or []:
        centimetres = region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == 3
        deltas = numbers([region], "PhysicalDeltaY", 1, ()) + numbers([region], "PhysicalDeltaX", 1, ())
        if centimetres and len(deltas) == 2 and all(deltas):
            return 10 * abs(deltas[0]), 10 * abs(deltas[1])
    return spacing if spacing and min(spacing) > 0 else ()


def cine_ms(data: Dataset, index: int) -> float:
    """When a frame of a multi-frame file is shown, in ms from its first one; 0 if unknown."""
    vector = data.get("FrameTimeVector")
    with contextlib.suppress(FileError, TypeError, ValueError):  # damaged: it does not say
        if isinstance(vector, MultiValue):
            return sum(float(step) for step in vector[1 : index + 1])
        return index * numbers([data], "FrameTime", 1, (0.0,))[0]
    return 0.0


def thickness_of(groups: list[Dataset]) -> float:
    """Of a slice that may have no neighbours, in mm; 1 if unknown."""
    places = within(groups, "PixelMeasuresSequence")
    try:
        found = numbers(places, "SpacingBetweenSlices", 1, ()) or numbers(places, "SliceThickness", 1, ())
    except FileError:  # what it says does not matter to slices that have positions
        found = ()
    return found[0] if found and found[0] > 0 else 1.0
