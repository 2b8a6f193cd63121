"""What a run folder holds of how the run went: log.txt, environment.json, and the trackers that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from ssmtl_toolkit.config import Config
from ssmtl_toolkit.disk import UnwritableError
from ssmtl_toolkit.engine.tracker import State, TrackedRun
from ssmtl_toolkit.foreign import by_the_user, in_one_line, words_of
from ssmtl_toolkit.runtime.environment import Environment
from ssmtl_toolkit.runtime.folder import network_file_system
from ssmtl_toolkit.runtime.interrupt import InterruptedRunError
from ssmtl_toolkit.runtime.lines import Lines
from ssmtl_toolkit.runtime.logfile import LogFile
from ssmtl_toolkit.runtime.progress import Progress, Together
from ssmtl_toolkit.runtime.tracking import Tracking, numbers, shared_options
from ssmtl_toolkit.specs import TrackerSpec
from ssmtl_toolkit.text import printable


class Recorder(Together):
    """Passes on what a run reports, and records it from `begin` to the end of its `with` block.

    A start that fails before `begin` leaves nothing.
    """

    def __init__(self, folder: Path, kind: str, progress: Progress) -> None:
        """`kind` is the command."""
        self._folder, self._kind = folder, kind
        self._log = LogFile(folder, waits=True)
        self._shown = Together(progress, Lines(self._log.write))
        self._tracking = Tracking(self._shown)
        self._environment: Environment | None = None
        self._scores: Mapping[str, float] = {}
        super().__init__(self._shown, self._tracking)

    def begin(self, config: Config, track: Sequence[TrackerSpec], device: torch.device) -> None:
        """The folder is a run's from here on; called by the first process of several."""
        self._log.begin()
        environment = Environment(self._folder)
        try:
            environment.begin(str(device))
            self._environment = environment
        except UnwritableError as error:
            self.note(str(error))
        options = shared_options(config)
        run = TrackedRun(self._folder, self._folder.absolute().name, environment.id, self._kind, options)
        self._tracking.begin(track, run)

    def scores(self, tree: Mapping[str, Any]) -> None:
        """What the run has come to: the numbers in it go to trackers at the end."""
        self._scores = numbers(tree)

    def __enter__(self) -> Self:
        if kind := network_file_system(self._folder):
            self.note(
                f"{printable(self._folder)}: is on a network file system ({kind}), where other machines may not see "
                f"its lock; start no second run in it from there"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._log.write(f"error: {words_of(error) or in_one_line(error)}")
        state = _state(error)
        pictures = {file.relative_to(self._folder).with_suffix("").as_posix(): file for file in self._pictures()}
        self._tracking.end(state, self._scores, pictures)
        if self._environment:
            try:
                self._environment.end(state)
            except UnwritableError as error:
                self.note(str(error))

    def _pictures(self) -> list[Path]:
        """The pictures that were drawn into folders of the run."""
        return sorted([*self._folder.glob("*/*.png"), *self._folder.glob("*/*/*.png")])


def _state(error: BaseException | None) -> State:
    if error is None:
        return "finished"
    return "interrupted" if isinstance(error, InterruptedRunError) or by_the_user(error) else "failed"
