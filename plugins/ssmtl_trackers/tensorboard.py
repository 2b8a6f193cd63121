"""A run in TensorBoard: each part of it is a curve of its own in the same chart."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ssmtl_toolkit.engine.tracker import State, TrackedRun, Tracker


class Events(Tracker):
    """A folder of event files for the run, and one below it for each part."""

    def __init__(self, run: TrackedRun) -> None:
        self.folder = run.folder / "tensorboard"
        self._last = 0
        self._writers: dict[str, SummaryWriter] = {}
        rows = "".join(f"| {name} | `{value}` |\n" for name, value in run.config.items())
        self._writer("").add_text("config", f"| option | value |\n|---|---|\n{rows}")

    def where(self) -> str:
        return f"tensorboard --logdir {shlex.quote(str(self.folder))}"

    def _writer(self, part: str, purge: int | None = None) -> SummaryWriter:
        if part not in self._writers:
            self._writers[part] = SummaryWriter(str(self.folder / part), purge_step=purge)
        return self._writers[part]

    def training(self, part: str, step: int) -> None:
        if part:  # a writer of its own, which can say that what was written after this step no longer counts
            self._writer(part, purge=step + 1)
        elif any(self.folder.glob("events.*")):
            self._writers.pop("").close()
            self._writer("", purge=step + 1)

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        self._last = max(self._last, step)
        for name, value in values.items():
            self._writer(part).add_scalar(name, value, step)

    def picture(self, name: str, file: Path) -> None:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer("").add_image(name, pixels, self._last, dataformats="HWC")

    def scores(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer("").add_scalar(f"scores/{name}", value, self._last)

    def end(self, state: State) -> None:
        self._writer("").add_text("state", state, self._last)
        for writer in self._writers.values():
            writer.close()
