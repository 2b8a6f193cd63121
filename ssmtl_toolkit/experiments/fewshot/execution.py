"""Runs a comparison of few labels, and writes what is known at its end or when it is stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from ssmtl_toolkit.config import Budget, FewLabels, FewshotConfig, with_absolute_paths
from ssmtl_toolkit.config.scoring import DEFAULTS
from ssmtl_toolkit.config.signatures import takes
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.documents import read_toml
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.experiments.fewshot.arms import Arm, arms_of
from ssmtl_toolkit.experiments.fewshot.comparing import Line, Scores, compare, seen_before, verdict
from ssmtl_toolkit.experiments.fewshot.drawing import check_budgets, default_budgets
from ssmtl_toolkit.experiments.fewshot.gathering import Gathered, gather
from ssmtl_toolkit.experiments.fewshot.report import HOW, NAME, failures, write_report
from ssmtl_toolkit.experiments.fewshot.trials import Trial, trials_of
from ssmtl_toolkit.experiments.overlays import merged
from ssmtl_toolkit.experiments.placed import runs_in
from ssmtl_toolkit.experiments.runs import Runs, check_networks
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.reporting.ending import report_at_end
from ssmtl_toolkit.runtime.environment import command
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.provenance import provenance
from ssmtl_toolkit.runtime.results import Result
from ssmtl_toolkit.sources import Given, dataset_of
from ssmtl_toolkit.specs import DatasetSpec, MetricSpec, Spec
from ssmtl_toolkit.text import counted

if TYPE_CHECKING:
    from ssmtl_toolkit.config.typed import FewshotOptions

F = TypeVar("F", bound=FewLabels)

QUICK = Path(__file__).parent / "quick.toml"


class Fewshot(Result):
    """A comparison of few labels, finished or as far as it went."""


class TrialsFailedError(SsmtlError):
    """Trials failed; `summary` compares the others."""

    def __init__(self, message: str, summary: dict[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary


@takes(FewshotConfig)
def fewshot(
    data: Given | Sequence[Given],
    config: FewshotConfig | None = None,
    /,
    *,
    out: str | Path,
    quick: bool = False,
    minutes: float | None = None,
    cache: str | Path | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[FewshotOptions],
) -> Fewshot:
    """Find out how many labels are needed, and whether pre-training helps.

    Every method is pre-trained with several seeds on the scans of the training patients, and fine-tuned on the labels
    of few of them, with several draws. What `out` already holds is not done again; processes that are given the same
    `out` share the work.

    Args:
        data: labelled scans: a path, a pattern, a dataset, or several of them.
        config: all options as one object, or instead of it …
        options: … any of `FewshotConfig`'s options by name; `pretrain` and `finetune` are tables of options of those
            commands, such as {"steps": 600}.
        out: folder for the runs (`pretrain/`, `finetune/`) and the results (fewshot.md, .csv, .json, .svg).
        quick: small and short, for what is not given otherwise.
        minutes: begin no training later than this; the results say what is done of what is planned.
        cache: folder for prepared slices; by default the user's cache directory.
        cluster: where the runs are done: `local:4`, the address of a Dask scheduler, `slurm:8` …; by default here.
        progress: is notified of what happens, to show it; by default the output of a notebook's cell.

    Raises:
        UsageError: an option is wrong; nothing was trained.
        DataError: scans, labels or split cannot be used.
        TrialsFailedError: some trainings failed; the others are done, and the results are written.
    """
    if config is not None and options:
        raise UsageError(f"both a configuration and options ({', '.join(options)}) are given; put them into one")
    given = config or FewshotConfig.of(options)
    resolved, dataset = (
        (quickened(given, QUICK) if quick else given).resolve(),
        with_absolute_paths(dataset_of(data)),
    )
    arms = arms_of(resolved, dataset)
    launch()
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    runs = runs_in(out, cache, progress, resolved.trackers(), cluster)
    with interrupts:
        check_networks((f"method {arm.id!r}", arm.pretrain, arm.finetune) for arm in arms)
        return Comparison(resolved, dataset, arms, runs).run(until)


def quickened(config: F, file: Path) -> F:
    """The options that are given, over those of a file."""
    given = {name: getattr(config, name) for name in config.model_fields_set}
    return config.of(merged(read_toml(file), given, str(file)))


@dataclass(frozen=True)
class Comparison:
    """All that is planned, and where it is done."""

    config: FewshotConfig
    dataset: DatasetSpec
    arms: Sequence[Arm]
    runs: Runs

    @cached_property
    def gathered(self) -> Gathered:
        """Patients, slices and scans; reading them for the first time raises what `gather` does."""
        fresh = next(arm for arm in self.arms if arm.starts_fresh and arm.finetune.semi is None)
        return gather(self.config, fresh.finetune, self.runs)

    @cached_property
    def budgets(self) -> tuple[Budget, ...]:
        """The budgets, those of patients first, rising."""
        patients, slices = len(self.gathered.split.train), sum(map(len, self.gathered.slices.values()))
        budgets = self.config.budgets or default_budgets(patients)
        check_budgets(budgets, patients, slices)
        return tuple(sorted(budgets, key=lambda budget: (budget.unit, budget.number)))

    @cached_property
    def trials(self) -> list[Trial]:
        """All that is planned."""
        return trials_of(self.config, self.budgets, self.arms, self.gathered, self.runs)

    def run(self, until: float) -> Fewshot:
        """Do what is missing and write what is known, also when it is interrupted."""
        self._tell()
        failed: dict[str, str] = {}
        try:
            failed = self.runs.run([trial.job for trial in self.trials], until)
        finally:
            summary = self._write(failed)
        if failed:
            lines, number = "\n".join(failures(failed)), f"{len(failed)} of {len(self.trials)}"
            message = f"{number} fine-tunings failed, the others are in {self._file}:\n{lines}"
            raise TrialsFailedError(message, summary)
        return Fewshot(self.runs.out, summary)

    def lines(self) -> list[Line]:
        """What came of the trials that are done."""
        return [line for trial in self.trials if (line := Line.of(trial, self.runs.results(trial.job)))]

    @property
    def metric(self) -> MetricSpec:
        """The metric that is compared by."""
        output = self.arms[0].finetune.head.output
        (metric,) = [each for each in self._metrics() if each.name == DEFAULTS[output][0]]
        return metric

    def scores(self, lines: Sequence[Line]) -> Scores:
        """The scores of trials by that metric."""
        return Scores(lines, self.metric, self.config.draws, self.config.pretrainings)

    def _metrics(self) -> tuple[MetricSpec, ...]:
        finetune = self.arms[0].finetune
        return finetune.chosen_metrics(finetune.head.output)

    @property
    def _file(self) -> Path:
        return self.runs.out / f"{NAME}.md"

    def _tell(self) -> None:
        gathered, trials = self.gathered, self.trials
        runs = {self.runs.pretraining(trial.job) for trial in trials} - {None}
        self.runs.progress.say(
            f"patients  {len(gathered.split.train)} to train on, {len(gathered.scored)} to score\n"
            f"methods   {', '.join(arm.name for arm in self.arms)}\n"
            f"planned   {counted(len(runs), 'pre-training')} and {counted(len(trials), 'fine-tuning')}"
        )

    def _write(self, failed: Mapping[str, str]) -> dict[str, Any]:
        """Write what is done; the last process to write has seen all of it."""
        with self.runs.in_turn(NAME):
            lines = self.lines()
            summary = self._summary(lines) | {"failed": dict(failed)}
            write_report(self.runs.out, summary, lines, f"# data: {self.dataset}\n{self._options().write()}")
            report_at_end(self.runs.out, self.config.report, self.runs.progress)
        return summary

    def _options(self) -> FewshotConfig:
        """The options, with budgets, and with slices as the data set suggests them."""
        slicing = {name: getattr(self.arms[0].finetune, name) for name in Slicing.model_fields}
        return self.config.model_copy(update={**slicing, "budgets": self.budgets})

    def _summary(self, lines: Sequence[Line]) -> dict[str, Any]:
        """What `--json` prints."""
        metric, gathered = self.metric, self.gathered
        cells = compare(self.arms, self.budgets, lines, self.scores(lines))
        by_id = {arm.id: arm for arm in self.arms}
        sentences = [verdict(cell, by_id[cell["method"]], metric) for cell in cells]
        return {
            "data": str(self.dataset),
            "patients": {"train": len(gathered.split.train), "scored": len(gathered.scored)},
            "score": self.config.score,
            "recipe": self.config.recipe,
            "budgets": [str(budget) for budget in self.budgets],
            "draws": self.config.draws,
            "pretrainings": self.config.pretrainings,
            "methods": [_about(arm) for arm in self.arms],
            "metric": metric.name,
            "metrics": [each.full() for each in self._metrics()],
            "planned": len(self.trials),
            "done": len(lines),
            "cells": cells,
            "sentences": [sentence for sentence in sentences if sentence],
            "seen": seen_before(self.arms, lines),
            "how": HOW,
            "provenance": self._provenance(),
        }

    def _provenance(self) -> dict[str, Any]:
        specs: list[Spec] = [self.dataset]
        for arm in self.arms:
            specs += [arm.pretrain.backbone, *arm.pretrain.tasks] if arm.pretrain else []
            specs += [arm.finetune.head, *([arm.finetune.semi] if arm.finetune.semi else [])]
        return {"command": command()} | provenance(specs, [self.config.seed], "", "")


def _about(arm: Arm) -> dict[str, Any]:
    tasks = [] if arm.pretrain is None else [str(task) for task in arm.pretrain.tasks]
    semi = arm.finetune.semi
    return {
        "id": arm.id,
        "name": arm.name,
        "twin": arm.twin,
        "backbone": str(arm.finetune.backbone),
        "tasks": tasks,
        "weights": None if arm.weights is None else str(arm.weights),
        "semi": None if semi is None else str(semi),
    }
