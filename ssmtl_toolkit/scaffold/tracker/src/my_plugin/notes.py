"""The page of notes."""

from __future__ import annotations

from collections.abc import Mapping

from ssmtl_toolkit.engine.tracker import State, TrackedRun, Tracker


class Notes(Tracker):
    """Appends a line for whatever happens."""

    def __init__(self, run: TrackedRun, digits: int) -> None:
        # What a tracker writes into the run folder begins with its name.
        self._file, self._digits = run.folder / "my_plugin.md", digits
        if not self._file.exists():  # it does if the run is resumed; a service is asked for `run.id` instead
            self._write(f"# {run.name}\n")
            self._write(f"`ssmtl {run.command}` with these options:\n")
            for name, value in run.config.items():
                self._write(f"- {name}: {value}")

    def where(self) -> str:
        # Told to the user when the run begins.
        return str(self._file)

    def training(self, part: str, step: int) -> None:
        # A part is one of several trainings of a run, such as pretrained-0; a pre-training is one, called "".
        self._write(f"\n## {part or 'training'}, from step {step}\n")

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        losses = [f"{name} {value:.{self._digits}f}" for name, value in values.items() if name.endswith("/loss")]
        if losses:
            self._write(f"- step {step}: {', '.join(losses)}")

    def scores(self, values: Mapping[str, float]) -> None:
        self._write("\n## What came of it\n")
        for name, value in values.items():
            self._write(f"- {name}: {value:.{self._digits}f}")

    def end(self, state: State) -> None:
        self._write(f"\nThe run {'was interrupted' if state == 'interrupted' else state}.")

    def _write(self, line: str) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
