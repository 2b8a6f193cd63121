"""Preparations with one deliberate fault each, and what the checks say about them."""

from dataclasses import replace

import numpy as np
from pydantic import Field

from ssmtl_toolkit.data.lattice import Lattice, Line
from ssmtl_toolkit.data.preparation import Stage
from ssmtl_toolkit.specs import PreparationSpec

CALLS = []


class BrokenPreparation(PreparationSpec):
    """Subtracts the mean; FAULT says what is wrong."""

    name = "broken_preparation"

    fault: str = Field("none", description="What is wrong.")

    def prepare(self, stack, size):
        slices, fault = np.asarray(stack.slices, np.float32), self.fault
        if fault == "an array":
            return slices
        if fault == "in place":
            stack.slices[:] = 0
        if fault == "draws":
            slices = slices + np.random.random()
        if fault == "remembers":
            CALLS.append(0)
            slices = slices + len(CALLS)
        if fault == "divides":
            with np.errstate(all="ignore"):
                slices = slices / slices.std(axis=(2, 3), keepdims=True)
        if fault == "one slice":
            slices = slices[:1, 0]
        if fault == "mixes slices":
            slices = (slices + np.roll(slices, 3, axis=0)) / 2
        slices = slices if fault == "divides" else slices - slices.mean()
        return Stage.of_values(stack, slices, (lambda image: image[:, :, ::2]) if fault == "undo" else None)


class BrokenPlaces(PreparationSpec):
    """Drops the first rows; FAULT says what is wrong."""

    name = "broken_places"

    fault: str = Field("none", description="What is wrong.")

    def prepare(self, stack, size):
        number, height, width = stack.grid
        lattice = Lattice(Line.of(number), Line.of(height).cropped(2, height), Line.of(width))
        stage = Stage.of_places(stack, lattice)
        if self.fault == "stays":
            return replace(stage, lattice=None)
        if self.fault == "affine":
            return replace(stage, stack=replace(stage.stack, affine=stack.affine))
        if self.fault == "nothing is left":
            rows = replace(Line.of(height), start=height)
            return Stage.of_places(stack, Lattice(Line.of(number), rows, Line.of(width)))
        return stage


_FAULTS = {
    BrokenPreparation: {
        "it gives slices, finite and of the shape that their places have": [
            ("an array", "prepare gives ndarray; give a Stage"),
            ("one slice", "give (slices, channels, rows, columns)"),
        ],
        "it leaves what it is given as it is": [("in place", "work on a copy")],
        "equal scans give equal slices": [("draws", "draw nothing"), ("remembers", "keep nothing of earlier scans")],
        "the way back of values has the channels and the shape from before": [("undo", "undo gives (2, 1, 20")],
        "a slice shows no others than `reach` says": [("mixes slices", "`reach` says 0")],
        "a blank slice among others, and values of any type, are prepared too": [("divides", "guard divisions")],
    },
    BrokenPlaces: {
        "it gives slices, finite and of the shape that their places have": [("stays", "and their places (9, 40, 30)")],
        "affine and spacing say where its pixels lie": [("affine", "use Stage.of_places")],
        "labels come back onto the grid of the scan": [("nothing is left", "nothing of the scan is left")],
    },
}
BROKEN_PREPARATIONS = [
    (kind(fault=fault), title, told)
    for kind, titles in _FAULTS.items()
    for title, faults in titles.items()
    for fault, told in faults
]
