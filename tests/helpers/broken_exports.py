"""Exports with one deliberate fault each, and what the checks say about them."""

import copy

import torch
from pydantic import Field

from ssmtl_toolkit.specs import ExportSpec


class BrokenExport(ExportSpec):
    """Saves the tensors; FAULT says what is wrong."""

    name = "broken_export"

    fault: str = Field("none", description="What is wrong.")

    def write(self, exported, folder):
        torch.save(exported.module.state_dict(), folder / "weights.pth")
        if self.fault == "beside":
            (folder.parent / "log.txt").write_text("here I am")
        return "`torch.load`"

    def outputs(self, exported, folder, images):
        opened = copy.deepcopy(exported.module)
        if self.fault != "given":
            opened.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
        if self.fault == "double":
            images = images * 2
        ours = exported.module(images / 2 if self.fault == "double" else images)
        yield ours, opened(images)


class TakesNothing(BrokenExport):
    """Takes nothing."""

    name = "takes_nothing"
    takes = frozenset({"everything"})


BROKEN_EXPORTS = [
    (TakesNothing(), "it says what it takes, and how near its outputs come", "takes is frozenset({'everything'})"),
    (BrokenExport(fault="double"), "what it writes computes the same in its library", "computes something else"),
    (BrokenExport(fault="given"), "it opens what it has written", "must come from the folder alone"),
    (BrokenExport(fault="beside"), "it writes nothing outside its folder", "it writes log.txt beside its folder"),
]
