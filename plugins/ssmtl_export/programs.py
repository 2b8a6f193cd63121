"""Programs of `torch.export`, and the script beside them that uses one on a scan."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ssmtl_toolkit.engine.export import Exported

PROGRAM, SCRIPT = "model.pt2", "predict.py"


def write_program(exported: Exported, folder: Path) -> str:
    """Write model.pt2, and predict.py if a scan can be prepared without the toolkit."""
    program, sizes = program_of(exported)
    save_program(program, folder / PROGRAM, {"usage.json": json.dumps(exported.usage)})
    opening = (
        f"`torch.export.load('{PROGRAM}').module()` takes float32 images (N, {exported.backbone.in_channels}, H, W), "
        f"prepared as below, on the CPU: any number of {sizes}."
    )
    usage = exported.usage
    in_time = usage["axis"] == "time"
    several = usage["channels"] > 1 and usage["answer"]["kind"] == "image"
    if exported.head is None or usage["preparations"] or usage["resize"] is None or several or in_time:
        return opening
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
    return f"{opening}\n\n`python {SCRIPT} OUT.nii.gz SCAN.nii.gz` does all of it with torch, numpy and nibabel."


def save_program(program: ExportedProgram, file: Path, extra: dict[str, Any] | None = None) -> None:
    """Write a program; by way of memory, as torch ends the process where it finds the disk full or broken itself."""
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files=extra)
    file.write_bytes(stream.getbuffer())


def program_of(exported: Exported) -> tuple[ExportedProgram, str]:
    """The module as a program, and which images it takes, in words.

    A network that takes its own size as a special case, as if its deepest map is one pixel there, is traced at that.
    """
    own = exported.images(3)
    free = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    program = _traced(exported, exported.images(2, larger=True), free)
    try:
        program.module()(own)
    except (RuntimeError, AssertionError):  # a guard on sizes
        return _traced(exported, own, {0: Dim.AUTO}), f"images of {exported.size} x {exported.size} pixels"
    return program, "images of any size that the network takes, such as multiples of 32 pixels"


def _traced(exported: Exported, images: Tensor, dynamic: dict[int, object]) -> ExportedProgram:
    return torch.export.export(exported.module, (images,), dynamic_shapes=(dynamic,), strict=False)


def open_program(folder: Path) -> Callable[[Tensor], Tensor]:
    """The program in a folder, as a function of images."""
    return torch.export.load(folder / PROGRAM).module()
