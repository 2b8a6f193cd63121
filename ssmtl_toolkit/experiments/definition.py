"""What an experiment is: rows of pre-training and fine-tuning to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ssmtl_toolkit.config import ResolvedFinetune, ResolvedRun
from ssmtl_toolkit.specs import DatasetSpec, Output


class Table(BaseModel):
    """A table of the TOML file, with the keys that are declared and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Row(Table):
    """One line of the table, or one for each of its snapshots."""

    name: str = Field("", description="Its name in the table; {epoch} stands for the snapshot's.")
    backbone: str = Field("unet", description="A backbone, or a name from [backbones].")
    tasks: tuple[str, ...] = Field((), description="Pretext tasks; none: from scratch.")
    snapshots: tuple[int, ...] = Field((), description="Epochs of pre-training to fine-tune after, a line for each.")
    pretrain: dict[str, Any] = Field({}, description="Options of ssmtl run, over those of [pretrain].")
    finetune: dict[str, Any] = Field({}, description="Options of ssmtl finetune, over those of [finetune].")
    published: dict[str, float] = Field({}, description="Published value by column: class names and mean.")

    @field_validator("snapshots")
    @classmethod
    def _epochs(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if any(epoch < 1 for epoch in epochs) or len(set(epochs)) < len(epochs):
            raise ValueError("expected different epochs, 1 or later")
        return epochs


class SplitOptions(Table):
    """Which patients are trained on and tested on; the same for all rows."""

    train: int | None = Field(None, ge=1, description="Labelled scans to fine-tune on; by default all the others.")
    validation: int = Field(0, ge=0, description="Labelled scans to choose options by.")
    test: int | None = Field(None, ge=1, description="Labelled scans to test on; by default a fifth of the patients.")
    order: tuple[str, ...] = Field((), description="Patients: the first train, the next validate, the others test.")
    seed: int = Field(0, ge=0, description="Another seed draws other patients, unless there is an order.")
    score: Literal["test", "validation"] = Field("test", description="Which part is tested on.")
    pretrain_on: Literal["all", "train"] = Field(
        "all", description="Whether pre-training sees (without labels) the scans of validation and test too."
    )

    @model_validator(mode="after")
    def _something_to_score(self) -> Self:
        if self.score == "validation" and not self.validation:
            raise ValueError("score = 'validation' needs validation scans")
        return self


class Experiment(Table):
    """A table: what is common to its rows, and the rows."""

    title: str = Field("", description="What is compared.")
    data: str | list[str] | None = Field(None, description="Labelled scans; a path is relative to the file.")
    dataset: dict[str, Any] = Field({}, description="Options of the dataset, unless they are given with it.")
    published_on: str = Field("", description="The dataset that published values are for.")
    split: SplitOptions = SplitOptions()
    backbones: dict[str, str] = Field({}, description="Names for backbones, for the rows.")
    pretrain: dict[str, Any] = Field({}, description="Options of ssmtl run.")
    finetune: dict[str, Any] = Field({}, description="Options of ssmtl finetune.")
    not_comparable_because: tuple[str, ...] = Field(
        (), description="Why published values are not comparable with ours."
    )
    rows: dict[str, Row] = Field(min_length=1, description="The lines of the table, by short names.")


@dataclass(frozen=True)
class Job:
    """One line of the table, resolved: what to pre-train, where to start from, what to fine-tune.

    Attributes:
        id: the row's short name, with @epoch for a snapshot.
        pretrain: None: from scratch.
        snapshot: the epoch of pre-training to start from; None: its end.
        finetune: its source is a placeholder and its split missing: they are known when the run is finished.
    """

    id: str
    name: str
    pretrain: ResolvedRun | None
    snapshot: int | None
    finetune: ResolvedFinetune
    published: Mapping[str, float]

    @property
    def start(self) -> int | None:
        """The epoch to start from, None for the end of pre-training, be it written as an epoch or not."""
        at_end = self.pretrain and self.pretrain.steps is None and self.snapshot == self.pretrain.epochs
        return None if at_end else self.snapshot

    @property
    def output(self) -> Output:
        """What the head gives: labels or image."""
        return self.finetune.head.output


@dataclass(frozen=True)
class ResolvedExperiment:
    """An experiment ready to run.

    Attributes:
        name: of the file, without its suffix.
    """

    name: str
    experiment: Experiment
    dataset: DatasetSpec
    jobs: tuple[Job, ...]

    @property
    def not_comparable_because(self) -> tuple[str, ...]:
        """Why published values are not comparable, in words; empty if they are."""
        return self.experiment.not_comparable_because

    def write(self) -> str:
        """Return the resolved experiment as TOML: it means the same without overlays."""
        content = self.experiment.model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps({**content, "data": self.dataset.full()})
