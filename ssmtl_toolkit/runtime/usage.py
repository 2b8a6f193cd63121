"""How weights are to be used, without this package: written as data into the metadata of every file of weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.slicing import Axis, Cut, Level, Slicing
from ssmtl_toolkit.data.volume import DIRECTIONS
from ssmtl_toolkit.runtime.weights import About

Directions = tuple[str, str, str]

_FAR = 2.0  # times as far apart as any slices of the training, or as near: hardly the same kind of scan

SCANNED = (
    "the axis of the file along which the scanner stepped: the one that its header names (NIfTI: dim_info), else the "
    "one whose spacing is more than 1.5 times that of both others, else the third; then the anatomical axis nearest "
    "to it"
)
"""What `acquisition` means."""


class Resize(About):
    """How slices are brought to the network's size, as `torch.nn.functional.interpolate` takes it."""

    size: tuple[int, int]
    mode: Literal["bilinear"] = "bilinear"
    align_corners: Literal[False] = False
    antialias: Literal[True] = True


class Normalise(About):
    """What is subtracted from each channel and what it is divided by, after resizing.

    `by` is `slice` (mean and standard deviation of the resized slice itself), `scan` (those of all voxels of the scan,
    clipped, before resizing) or `levels` (those given for each channel). The deviation is that of the population; where
    it is at most `constant` times the largest absolute value, a slice becomes zeros.
    """

    by: Literal["slice", "scan", "levels"]
    levels: tuple[Level, ...] = ()
    constant: float = 1e-6


class Answer(About):
    """What comes out, and the way back.

    Maps are first resized to the slice's own rows and columns (bilinear, corners not aligned, not anti-aliased). For
    `classes` a pixel gets that of `values` whose maps, numbered in `members`, have the largest sum; probabilities are
    the maps' `activation`. An `image` is multiplied by the deviation, and the mean is added. `features` are as they
    are.

    Attributes:
        names: of the maps of classes, in order.
        values: what label maps hold; the first, 0, is the background.
        members: the maps of each value, from 0; none for the background of classes that overlap: its sum is 0.
    """

    kind: Literal["classes", "image", "features"]
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    members: tuple[tuple[int, ...], ...] = ()
    mode: Literal["bilinear"] = "bilinear"
    align_corners: Literal[False] = False

    @classmethod
    def of(cls, classes: Classes | None) -> Answer:
        """That of a fine-tuned model; without classes it is a slice."""
        if classes is None:
            return cls(kind="image")
        values = (0, *(cell[0] for cell in classes.cells))
        if not classes.overlap:
            names, members = ("background", *classes.names), tuple((i,) for i in range(len(values)))
            return cls(kind="classes", activation="softmax", names=names, values=values, members=members)
        owned = tuple(tuple(np.flatnonzero(column).tolist()) for column in classes.members.T)
        return cls(kind="classes", activation="sigmoid", names=classes.names, values=values, members=owned)


class Usage(About):
    """From a scan to what the network takes, in the order of `order`, and back.

    Attributes:
        axis: what slices are cut along; `acquisition` is explained in `scanned`, and so is the axis of the positions
            whose frames follow each other in `time`.
        axes: the anatomical axes that the training scans were cut along.
        directions: for each axis that may be meant, where the indices of slices, rows and columns increase to: S
            upwards, I downwards, P to the back, L to the patient's left.
        spacing: the least and the largest distance between slices of the training scans, as prepared: in mm, in time in
            ms; None: not known.
        channels: how many a slice has.
        window: all values are clipped to it first.
        preparations: specs of further preparations of the scan, in order, for which this package is needed.
        resize: None: the network sees patches of slices of this many pixels that are not resized.
    """

    order: tuple[str, ...] = ("cut", "window", "preparations", "resize", "normalise", "network", "answer")
    axis: Cut
    axes: tuple[Axis, ...]
    scanned: str
    directions: dict[Axis, Directions]
    spacing: tuple[float, float] | None = None
    channels: int
    window: tuple[float, float] | None
    preparations: tuple[str, ...]
    resize: Resize | None
    normalise: Normalise
    answer: Answer

    @classmethod
    def of(cls, slicing: Slicing, channels: int, cuts: Iterable[tuple[str, float]], answer: Answer) -> Usage:
        """That of weights trained on slices made so; `cuts`: of each scan the axis and the distance of its slices."""
        known = list(cuts)
        cut_along, distances = {axis for axis, _ in known}, [distance for _, distance in known if distance]
        scanned = SCANNED if slicing.axis in ("acquisition", "time") else ""
        meant = [axis for axis in DIRECTIONS if scanned or axis == slicing.axis]
        by: Literal["scan", "levels", "slice"] = "scan" if slicing.normalise == "scan" else "slice"
        levels = slicing.levels
        return cls(
            axis=slicing.axis,
            axes=tuple(axis for axis in DIRECTIONS if axis in cut_along),
            scanned=scanned,
            directions={axis: DIRECTIONS[axis] for axis in meant},
            spacing=(min(distances), max(distances)) if distances else None,
            channels=channels,
            window=slicing.window,
            preparations=tuple(spec.full() for spec in slicing.preparations),
            resize=None if slicing.patches else Resize(size=(slicing.size, slicing.size)),
            normalise=Normalise(by="levels", levels=levels) if levels else Normalise(by=by),
            answer=answer,
        )

    def unlike(self, distance: float) -> str:
        """A note on a scan whose slices, as prepared, are so far apart, if those of the training were not; else ""."""
        if self.spacing is None or not distance:
            return ""
        least, largest = self.spacing
        if least / _FAR <= distance <= largest * _FAR:
            return ""
        unit = "ms" if self.axis == "time" else "mm"
        seen = f"{least:.4g}" if f"{least:.4g}" == f"{largest:.4g}" else f"{least:.4g} to {largest:.4g}"
        return (
            f"its slices are {distance:.4g} {unit} apart, those of the training {seen} {unit}: if it shows another "
            f"part of the body, or was scanned otherwise, the network has not learned from such slices"
        )

    @property
    def plain(self) -> bool:
        """Whether a slice is prepared by clipping, resizing and normalising alone: without this package."""
        return not self.preparations and self.resize is not None
