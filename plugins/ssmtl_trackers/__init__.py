"""Bundled trackers: TensorBoard, Weights & Biases, MLflow, Trackio, and CSV files that need no package."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import TrackerSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.tracker import TrackedRun, Tracker


class Csv(TrackerSpec):
    """Tables scalars.csv, scores.csv and config.csv in the folder csv/ of the run."""

    name: ClassVar[str] = "csv"

    def open(self, run: TrackedRun) -> Tracker:
        from ssmtl_trackers.tables import Tables

        return Tables(run)


class TensorBoard(TrackerSpec):
    """TensorBoard's event files in the folder tensorboard/ of the run."""

    name: ClassVar[str] = "tensorboard"

    def open(self, run: TrackedRun) -> Tracker:
        from ssmtl_trackers.tensorboard import Events

        return Events(run)


class Wandb(TrackerSpec):
    """Weights & Biases; offline, in the folder wandb/ of the run, unless mode=online."""

    name: ClassVar[str] = "wandb"

    project: str = Field("ssmtl", description="Its project.")
    mode: Literal["offline", "online"] = Field("offline", description="online: send it to the account logged in.")

    def open(self, run: TrackedRun) -> Tracker:
        from ssmtl_trackers.wandb import Online

        return Online(run, self.project, self.group, self.mode)


class Mlflow(TrackerSpec):
    """MLflow; in the folder mlflow/ of the run, unless it has a server."""

    name: ClassVar[str] = "mlflow"

    experiment: str = Field("ssmtl", description="Its experiment.")
    uri: str = Field("", description="Tracking server or database; $MLFLOW_TRACKING_URI if it is set.")

    def open(self, run: TrackedRun) -> Tracker:
        from ssmtl_trackers.mlflow import Client

        return Client(run, self.experiment, self.group, self.uri)


class Trackio(TrackerSpec):
    """Trackio, in its own database on this machine."""

    name: ClassVar[str] = "trackio"

    project: str = Field("ssmtl", description="Its project.")

    def open(self, run: TrackedRun) -> Tracker:
        from ssmtl_trackers.trackio import Local

        return Local(run, self.project, self.group)


@hookimpl
def ssmtl_trackers() -> list[type[TrackerSpec]]:
    return [Csv, TensorBoard, Wandb, Mlflow, Trackio]
