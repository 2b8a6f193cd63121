"""A run in Weights & Biases."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import wandb

from ssmtl_toolkit.engine.tracker import State, TrackedRun, Tracker

_EXIT_CODES: dict[State, int] = {"finished": 0, "failed": 1, "interrupted": 130}
_PATIENCE = 30  # seconds that a login or a first answer may take


class Online(Tracker):
    """A run of wandb's; names of scalars begin with their part, and each part counts its own steps."""

    def __init__(self, run: TrackedRun, project: str, group: str, mode: Literal["offline", "online"]) -> None:
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,  # it would name the user and the folder
            host="not recorded",
            init_timeout=_PATIENCE,
            login_timeout=_PATIENCE,
        )
        self._run = wandb.init(
            project=project,
            group=group or None,
            job_type=run.command,
            id=run.id,
            name=run.name,
            config=dict(run.config),
            dir=run.folder,
            mode=mode,
            resume="allow",
            reinit="create_new",  # a run that the user has open stays open
            settings=settings,
        )
        self._where = (mode == "online" and self._run.url) or f"wandb sync {shlex.quote(self._run.settings.sync_dir)}"

    def where(self) -> str:
        return self._where

    def training(self, part: str, step: int) -> None:
        prefix = f"{part}/" if part else ""
        self._run.define_metric(f"{prefix}step", hidden=True)
        self._run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        prefix = f"{part}/" if part else ""
        self._run.log({f"{prefix}step": step, **{f"{prefix}{name}": value for name, value in values.items()}})

    def picture(self, name: str, file: Path) -> None:
        self._run.log({name: wandb.Image(str(file))})

    def scores(self, values: Mapping[str, float]) -> None:
        self._run.summary.update({f"scores/{name}": value for name, value in values.items()})

    def end(self, state: State) -> None:
        self._run.summary.update({"state": state})
        self._run.finish(exit_code=_EXIT_CODES[state])
