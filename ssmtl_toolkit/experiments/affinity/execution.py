"""Runs a comparison of mixes of pretext tasks, looks at their pre-trainings, and writes what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ssmtl_toolkit.config import AffinityConfig, with_absolute_paths
from ssmtl_toolkit.config.signatures import takes
from ssmtl_toolkit.data.files import write_json
from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.experiments.affinity.comparing import agreements, matrices, mixes
from ssmtl_toolkit.experiments.affinity.looking import Labels, Look, looks_at
from ssmtl_toolkit.experiments.affinity.report import HOW, MATRIX, NAME, TAU, write_report
from ssmtl_toolkit.experiments.contents import short_digest
from ssmtl_toolkit.experiments.definition import Job
from ssmtl_toolkit.experiments.fewshot.arms import arms_of
from ssmtl_toolkit.experiments.fewshot.execution import Comparison, TrialsFailedError, quickened
from ssmtl_toolkit.experiments.fewshot.gathering import write_manifest
from ssmtl_toolkit.experiments.fewshot.methods import Method
from ssmtl_toolkit.experiments.placed import runs_in
from ssmtl_toolkit.experiments.runs import Runs, check_networks
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.reporting.ending import report_at_end
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.results import Result
from ssmtl_toolkit.sources import Given, dataset_of
from ssmtl_toolkit.specs import DatasetSpec
from ssmtl_toolkit.text import counted

if TYPE_CHECKING:
    from ssmtl_toolkit.config.typed import AffinityOptions

QUICK = Path(__file__).parent / "quick.toml"


class Affinity(Result):
    """A comparison of mixes of tasks, finished or as far as it went."""


@takes(AffinityConfig)
def affinity(
    data: Given | Sequence[Given],
    config: AffinityConfig | None = None,
    /,
    *,
    out: str | Path,
    quick: bool = False,
    minutes: float | None = None,
    cache: str | Path | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[AffinityOptions],
) -> Affinity:
    """Find out which pretext tasks go together for these labels, and how far cheap scores could have told.

    Each task alone, each pair and all of them are pre-trained shortly and fine-tuned on few labels, as `fewshot` does
    it with methods. What `out` already holds is not done again; processes that are given the same `out` share the work.

    Args:
        data: labelled scans: a path, a pattern, a dataset, or several of them.
        config: all options as one object, or instead of it …
        options: … any of `AffinityConfig`'s options by name (`tasks=["reconstruct_prev:t=2", "contrast"]`).
        out: folder for the runs (`pretrain/`, `finetune/`) and the results (affinity.md, .csv, .json).
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
    given = config or AffinityConfig.of(options)
    resolved, dataset = (
        (quickened(given, QUICK) if quick else given).resolve(),
        with_absolute_paths(dataset_of(data)),
    )
    runs = runs_in(out, cache, progress, resolved.trackers(), cluster)
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    few = resolved.fewshot(_validation_scans(resolved, dataset, runs))
    methods = {name: Method(name=name, tasks=tasks) for name, tasks in resolved.mixes().items()}
    comparison = Comparison(few, dataset, arms_of(few, dataset, methods), runs)
    if comparison.arms[0].finetune.head.output != "labels":
        raise UsageError(f"finetune.head={comparison.arms[0].finetune.head}: cheap scores need a head with labels")
    launch()
    with interrupts:
        check_networks((f"mix {arm.id!r}", arm.pretrain, arm.finetune) for arm in comparison.arms)
        return _Mixes(resolved, comparison).run(until)


def _validation_scans(config: AffinityConfig, dataset: DatasetSpec, runs: Runs) -> int:
    labelled = [scan for scan in runs.contents.scans(dataset) if scan.label]
    return config.validation_scans or max(1, round(len(labelled) / 5))


@dataclass(frozen=True)
class _Mixes:
    """A comparison of mixes, and what it is for."""

    config: AffinityConfig
    comparison: Comparison

    def run(self, until: float) -> Affinity:
        """Do what is missing, look at what is pre-trained, and write what is known."""
        failed: TrialsFailedError | None = None
        runs, labels = self.comparison.runs, self._labels()
        try:
            found = self.comparison.run(until).summary
        except TrialsFailedError as error:
            found, failed = error.summary, error
        looks: dict[str, list[Mapping[str, Look]]] = {arm.id: [] for arm in self.comparison.arms if arm.pretrain}
        not_scored = {}
        for (arm, number), job in self._pretrained().items():
            interrupts.check("rerun the command to resume")
            try:
                looks[arm].append(self._look(job, labels))
            except SsmtlError as error:
                not_scored[f"cheap scores of {arm}, pre-training {number + 1}"] = str(error)
        summary = self._summary(found, looks) | {"not_scored": not_scored}
        with runs.in_turn(NAME):
            write_report(runs.out, summary, f"# data: {self.comparison.dataset}\n{self.config.write()}")
            report_at_end(runs.out, self.config.report, runs.progress)
        if failed:
            raise TrialsFailedError(str(failed), summary)
        return Affinity(runs.out, summary)

    def _labels(self) -> Labels:
        """The labels of training patients.

        Raises:
            DataError: there is one such patient only.
        """
        gathered, config = self.comparison.gathered, self.config
        if len(gathered.split.train) < 2:
            raise DataError(
                f"{self.comparison.dataset}: there is one patient to train on, and cheap scores need two: one to fit "
                f"on, one to score by; give more labelled scans, or fewer --validation-scans and --test-scans"
            )
        assert gathered.classes is not None
        data = write_manifest(gathered.training, "labelled", self.comparison.runs)
        return Labels(data, gathered.classes, config.ignore_affine, config.slices, config.seed)

    def _pretrained(self) -> dict[tuple[str, int], Job]:
        """The pre-trainings that are done: for each a trial that starts from it."""
        jobs = {(t.arm, t.pretraining): t.job for t in self.comparison.trials if t.pretraining is not None}
        done = self.comparison.runs.results
        return {(arm, number): job for (arm, number), job in jobs.items() if done(job)["pretrain"]}

    def _look(self, job: Job, labels: Labels) -> Mapping[str, Look]:
        """The looks at a pre-training, from a file if they were taken before."""
        runs, run = self.comparison.runs, self.comparison.runs.pretraining(job)
        assert run is not None
        assert job.pretrain is not None
        patients = self.comparison.gathered.split.train
        contents = runs.contents.labels(self.comparison.dataset)
        name = short_digest(patients, str(labels.classes), labels.slices, labels.seed, contents)
        file = runs.out / "looks" / f"{run.name}-{name}.json"
        with runs.in_turn(file.stem):
            if not read_result(file):
                runs.progress.say(f"cheap scores of {run.name}")
                write_json(file, looks_at(run, job.pretrain, labels, runs.cache))
        return read_result(file)

    def _length(self) -> str:
        """How long each mix is pre-trained."""
        options = {"steps": self.config.steps, **self.config.pretrain}
        return counted(options["epochs"], "epoch") if "epochs" in options else counted(options["steps"], "step")

    def _summary(self, found: Mapping[str, Any], looks: Mapping[str, list[Mapping[str, Look]]]) -> dict[str, Any]:
        """What `--json` prints."""
        table = mixes(self.comparison, found, looks)
        kept = (
            *("data", "patients", "score", "recipe", "draws", "pretrainings", "metric", "metrics", "planned", "done"),
            "provenance",
        )
        pairs = matrices(self.comparison, looks)
        return {
            **{name: found[name] for name in kept},
            "tasks": [str(task) for task in self.config.tasks],
            "budget": str(self.config.budget),
            "length": self._length(),
            "slices": self.config.slices,
            "mixes": table,
            "agreement": agreements(self.comparison, table),
            "matrices": pairs,
            "failed": found["failed"],
            "how": [HOW, TAU, *([MATRIX] if pairs else [])],
        }
