"""A run in Trackio."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import trackio

from ssmtl_toolkit.engine.tracker import State, TrackedRun, Tracker


class Local(Tracker):
    """A run of Trackio's; names of scalars begin with their part."""

    def __init__(self, run: TrackedRun, project: str, group: str) -> None:
        self._project, self._last = project, 0
        self._run = trackio.init(
            project,
            name=f"{run.name}-{run.id[:6]}",  # by which it is found when the run is resumed
            group=group or None,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def where(self) -> str:
        return f"trackio show --project {shlex.quote(self._project)}"

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        self._last = max(self._last, step)
        prefix = f"{part}/" if part else ""
        self._run.log({f"{prefix}{name}": value for name, value in values.items()}, step=step)

    def picture(self, name: str, file: Path) -> None:
        self._run.log({name: trackio.Image(str(file))}, step=self._last)

    def scores(self, values: Mapping[str, float]) -> None:
        self._run.log({f"scores/{name}": value for name, value in values.items()}, step=self._last)

    def end(self, state: State) -> None:
        self._run.log({"state": state}, step=self._last)
        trackio.finish()  # not only this run: Trackio would finish it again, aloud, when the process ends
