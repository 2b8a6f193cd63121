"""A run in MLflow."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from ssmtl_toolkit.engine.tracker import State, TrackedRun, Tracker

_ENDS: dict[State, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_NOT_IN_NAMES = re.compile(r"[^\w. :/-]")
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""A server that is not there is given up soon, not after minutes."""
_ID = "ssmtl.id"  # the tag by which a resumed run is found
_MOST_PARAMS = 100  # in one call


class Client(Tracker):
    """A run of MLflow's, by a client of its own, so that a run that the user has open stays open."""

    def __init__(self, run: TrackedRun, experiment: str, group: str, uri: str) -> None:
        self._folder = run.folder / "mlflow"
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        for name, value in _IMPATIENT.items():
            os.environ.setdefault(name, value)
        if not self._uri:  # files: a database takes seconds to set up, and packages that mlflow-skinny lacks
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient(tracking_uri=self._uri or self._folder.absolute().as_uri())
        known = self._client.get_experiment_by_name(experiment)
        place = known.experiment_id if known else self._client.create_experiment(experiment)
        earlier = self._client.search_runs([place], f"tags.`{_ID}` = '{run.id}'", max_results=1)
        if earlier:
            self._run = earlier[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {_ID: run.id, "command": run.command, **({"group": group} if group else {})}
        self._run = self._client.create_run(place, tags=tags, run_name=run.name).info.run_id
        params = [Param(name, str(value)) for name, value in run.config.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._run, params=params[first : first + _MOST_PARAMS])

    def where(self) -> str:
        if self._uri:
            return self._uri
        place = shlex.quote(str(self._folder))
        return f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {place}"

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        prefix, now = f"{part}/" if part else "", int(time.time() * 1000)
        metrics = [Metric(_name(prefix + name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def picture(self, name: str, file: Path) -> None:
        self._client.log_artifact(self._run, str(file), "pictures")

    def scores(self, values: Mapping[str, float]) -> None:
        self.scalars("scores", 0, values)

    def end(self, state: State) -> None:
        self._client.set_terminated(self._run, status=_ENDS[state])


def _name(text: str) -> str:
    """A name that MLflow accepts: `=` and `,` of a task's options become other characters."""
    return _NOT_IN_NAMES.sub("_", text.replace("=", ":").replace(",", " "))
