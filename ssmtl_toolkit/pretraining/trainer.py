"""One training: modules, the loop from top to bottom, and what it writes."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from torch import Tensor

from ssmtl_toolkit.config import ResolvedRun, Role, RunConfig
from ssmtl_toolkit.data.files import atomic_write, write_json
from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.data.store import Skipped, SliceStore, StoredScan, slices_told
from ssmtl_toolkit.disk import UnwritableError
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.ranks import sum_over_ranks
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.features import Feature
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.pretraining import badstep
from ssmtl_toolkit.pretraining.best import BestStep
from ssmtl_toolkit.pretraining.labelled import Labelled
from ssmtl_toolkit.pretraining.leaving import Leaving
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.pretraining.pairs import Stacks, pairs_json, tell_pairs
from ssmtl_toolkit.pretraining.preflight import goes_on_gpu, try_once
from ssmtl_toolkit.pretraining.probe import Probe
from ssmtl_toolkit.pretraining.samples import Samples
from ssmtl_toolkit.pretraining.saving import Saver
from ssmtl_toolkit.pretraining.spread import feature_spreads
from ssmtl_toolkit.pretraining.start import keep, load, recorded
from ssmtl_toolkit.pretraining.symptoms import first_accuracy, gradient_looks, gradient_shares, symptoms
from ssmtl_toolkit.pretraining.update import Updater, logs_after
from ssmtl_toolkit.pretraining.verdict import History, best_trivial, judge
from ssmtl_toolkit.pretraining.watch import HeldOut, Watch
from ssmtl_toolkit.reporting.ending import report_wanted
from ssmtl_toolkit.runtime import checkpoint, origin
from ssmtl_toolkit.runtime.allocator import keep_memory
from ssmtl_toolkit.runtime.device import choose_precision, compile_parts, seed_all
from ssmtl_toolkit.runtime.folder import CHECKPOINTS, CONFIG, METRICS, SUMMARY
from ssmtl_toolkit.runtime.health import GRADIENT, BadStep
from ssmtl_toolkit.runtime.heartbeat import position
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.layout import choose_layout, in_layout
from ssmtl_toolkit.runtime.log import RunningMeans
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.runtime.optimizer import make_optimizer
from ssmtl_toolkit.runtime.progress import Pace, Progress
from ssmtl_toolkit.runtime.provenance import provenance
from ssmtl_toolkit.runtime.recomputing import recompute_blocks
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import TaskSpec
from ssmtl_toolkit.text import counted, duration, printable

_TIMED = 3  # steps after the first, from which the time to go is estimated
_LONG = 1800  # seconds to go that are worth a note
_MOST_LOST = 3  # checkpoints in a row that may fail to be written
_TOLD = 3  # skipped steps that are noted one by one
_SMALL = 32  # pixels that images should have at least


class Trainer:
    """One training: its modules, its loop and its files."""

    def __init__(
        self,
        fabric: Fabric,
        config: ResolvedRun,
        store: SliceStore,
        plan: Plan,
        folder: Path,
        progress: Progress,
        held_out: HeldOut | None = None,
        labelled: Labelled | None = None,
        start: Pretrained | None = None,
    ) -> None:
        self.fabric, self.config, self.folder, self.progress = fabric, config, folder, progress
        keep_memory(fabric.device)
        self.plan = plan
        self.stacks = Stacks(store)
        self.pairs = self.stacks.pairs_of(config.tasks)
        self.store = store.to(fabric.device) if goes_on_gpu(store, config, fabric) else store
        seed_all(config.seed, fabric.device)
        self.model = MultiTask.build(config.backbone, config.tasks, config.balancer, store.channels)
        transfer = load(start, self.model.backbone, config, progress) if start else None
        if config.checkpoint_activations:
            recompute_blocks(self.model.backbone)
        if note := try_once(self.model, config):
            progress.note(note)
        ranks = fabric.global_rank, fabric.world_size
        blocks = config.read_order == "blocks"
        sampler = Sampler(plan, config.batch_size, config.seed, *ranks, config.patients_per_batch, blocks=blocks)
        self.load = Loader(self.store, sampler, fabric.device, config.accumulate, Augmenter(config.augment))
        self.config = config = self._with_layout()
        in_layout(self.model, config.channels_last, fabric)
        if config.compile:
            compile_parts(self.model.backbone, {feature for task in config.tasks for feature in task.needs})
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = make_optimizer(config.optimizer, trained, config.lr, config.weight_decay, fabric.device)
        self.schedule = config.schedule.build(optimizer, self.steps)
        self.wrapped, self.optimizer = fabric.setup(self.model, optimizer)
        self.wrapped.train()
        metrics = {str(task): task.metrics for task in config.tasks}
        self.running_means = RunningMeans(metrics, sum_over_ranks, self.model.called)
        weights = {str(task): task.given_weight for task in config.tasks}
        looks = gradient_looks(config.tasks, self.steps, config.log_every)
        self.update = Updater(
            fabric, config, self.wrapped, self.optimizer, self.load, self.running_means, weights, looks
        )
        self.held_out = held_out
        self.watch = None
        if held_out and len(held_out.plan.anchors):
            self.watch = Watch(fabric, config, self.model, (self.store, plan), held_out, self.steps)
        self.samples = None
        if report_wanted(config.report):
            source = (held_out.store, held_out.plan) if self.watch and held_out else (self.store, plan)
            self.samples = Samples(fabric, config, self.model, source, self.steps, folder, progress)
        self.log = MetricLog(folder / METRICS)
        self.saver = Saver(fabric, config, self.model, self.optimizer.optimizer, store, folder, transfer)
        self.best = None
        if labelled:
            probe = Probe(fabric, config, self.model.backbone, labelled, self.steps)
            self.best = BestStep(probe, self.saver, self.log, progress)
        self.leaving = Leaving(fabric)
        self.step = 0
        self._not_finite: set[str] = set()  # metrics that were, which is noted once
        self.started = time.perf_counter()
        self.seconds_before = 0.0  # of the sessions that this one resumes, up to their last checkpoint
        self.summary: dict[str, Any] = {}

    def _with_layout(self) -> ResolvedRun:
        """The configuration with the memory layout that is the faster one here; a run that has begun keeps its own."""

        def trial() -> tuple[MultiTask, Callable[[MultiTask], Tensor]]:
            batch = self.load(0)
            return self.model, lambda model: model(batch)[0]

        begun = any((self.folder / CHECKPOINTS).glob("step-*"))
        steps = 0 if begun or self.config.compile else self.steps
        layout = choose_layout(self.config, self.fabric, steps, trial, self.progress)
        return self.config.model_copy(update={"channels_last": layout})

    @property
    def images_per_step(self) -> int:
        return self.config.batch_size * self.config.accumulate * self.fabric.world_size

    @property
    def _epoch(self) -> float:
        return round(self.step * self.images_per_step / len(self.plan.anchors), 4)

    @property
    def steps(self) -> int:
        """Number of updates: as set, or enough for every anchor to be seen `epochs` times."""
        return self.config.steps or math.ceil(self.config.epochs * len(self.plan.anchors) / self.images_per_step)

    def start(self, resume: bool) -> None:
        """Write run.toml, or put back the state of the newest checkpoint."""
        if resume:
            self._resume()
        self.saver.on_first_rank(self._begin)
        if self.best:
            self.best.resume()
        tell_pairs(self.stacks, self.config.tasks, self.pairs, self.progress)

    def _begin(self) -> None:
        with atomic_write(self.folder / CONFIG) as temporary:  # first: it identifies a run that was killed
            temporary.write_text(self.config.write(), encoding="utf-8")
        if self.saver.transfer:
            keep(self.saver.transfer, self.folder, self.progress, resumed=self.step > 0)
        if problem := self.log.cut(self.step or -1):  # before the first step nothing stays
            self.progress.note(problem)

    def _resume(self) -> None:
        latest = checkpoint.newest(self.folder / CHECKPOINTS, self.progress.note)
        if latest is None:
            self.progress.note(f"{self.folder}: no checkpoint yet, starting from the first step")
            return
        self._check_origin(latest)
        if latest.step > self.steps:
            raise UsageError(f"{self.folder}: already has {latest.step} steps, more than the {self.steps} requested")
        checkpoint.restore(latest, self.model, self.optimizer.optimizer)
        self.step = latest.step
        self.saver.resumes(latest.step)
        self.saver.transfer = recorded(latest, self.config, self.folder)
        with checkpoint.reading(latest):
            self.update.health.skipped = [int(step) for step in latest.about.get("skipped", ())]
        self.seconds_before = latest.about.get("seconds", 0.0)
        self.progress.note(f"resumes after step {latest.step}")

    def _check_origin(self, latest: checkpoint.Checkpoint) -> None:
        """Refuse the checkpoint of another run; note other versions and machines."""
        with checkpoint.reading(latest):
            options, scans = latest.about.get("options"), latest.about["scans"]
            length = latest.about.get("length", self.steps)
            then = dict(latest.about.get("versions", {OURS: latest.about.get("version")}))
            if options is None:
                self.progress.note(f"{latest.path}: was written by an older version, and does not record its options")
            else:
                origin.refuse(latest, self.config.differences(RunConfig.of(options, str(latest.path))))
        if scans != self.store.fingerprint:
            raise DataError(
                f"{latest.path}: the scans are no longer those of this run (their contents or order differ); "
                f"restore them, or start a new run"
            )
        if self.best and latest.about.get("probe") not in (None, self.best.probe.labelled.fingerprint):
            raise DataError(
                f"{latest.path}: the labelled slices of --probe are no longer those of this run (scans, labels, their "
                f"order or --probe-slices differ), so that scores could not be compared; restore them, or start a new "
                f"run"
            )
        if self.schedule is not None and length != self.steps:
            raise UsageError(
                f"{self.folder}: its schedule {str(self.config.schedule)!r} was made for {length} steps, not for "
                f"{self.steps}; omit --steps and --epochs, or start a new run"
            )
        origin.tell_changes(then, self._versions(), self.progress)
        origin.tell_changes(latest.about, self._machine(), self.progress)

    def _versions(self) -> dict[str, str]:
        return origin.versions([self.config.backbone, *self.config.tasks, self.config.balancer])

    def _machine(self) -> dict[str, Any]:
        """What must be equal for a resumed run to give equal bits."""
        precision = choose_precision(self.config, Progress())
        return {"world_size": self.fabric.world_size, "device": self.fabric.device.type, "precision": precision}

    def run(self, started: float) -> None:
        """Train to the last step, save, and sum up."""
        try:
            self._run(started)
        finally:
            self.saver.leave(self.progress.note)

    def _run(self, started: float) -> None:
        self.started = started
        self.progress.training(self.step, self.steps, self.images_per_step)
        if not self.step:
            self._probe()
            self._draw()
        first_step = None
        images, clock = 0, time.perf_counter()
        pace = Pace(self.steps, self.step)
        while self.step < self.steps:
            self._update()
            self.saver.snapshots(self.step, self._epochs_after)
            self._probe()
            self._draw()
            self.progress.stepped(self.step)
            pace.update(self.step)
            if pace.known == _TIMED:
                self._tell_long(pace)
            images += self.images_per_step
            if first_step is None:  # its time includes warm-up and does not count for images/s
                first_step, images, clock = time.perf_counter() - started, 0, time.perf_counter()
            last, save = self.step == self.steps, self.step % self.config.checkpoint_every == 0
            watched = self.watch.measure(self.step) if self.watch and self.step in self.watch.steps else {}
            log = last or save or bool(watched) or logs_after(self.step, self.config.log_every)
            if log or self.fabric.world_size == 1:  # several processes exchange something then anyway
                self._settle(wait=last or save)
            if log:
                with self._tolerated(self.step, last):
                    self._flush(watched)
                if last or save:
                    with self._tolerated(self.step, last):
                        self._save()
            self._leave_if_asked()
        self.saver.settle(wait=True)
        if first_step is None and self.fabric.is_global_zero:
            self.saver.backbone(self.step)  # killed between its last checkpoint and this file, it has an older one
        seconds = time.perf_counter() - clock
        self._sum_up(images / seconds if images else 0.0, first_step or 0.0)
        self.progress.done()

    def _tell_long(self, pace: Pace) -> None:
        """Say early how long a training on a CPU will take, and what would make it shorter."""
        seconds = pace.to_go() or 0.0
        if self.fabric.device.type == "cpu" and seconds > _LONG:
            size, half = self.config.size, self.config.size // 2
            smaller = f"--size {half} takes about a quarter of it; " if half >= _SMALL else ""
            self.progress.note(
                f"about {duration(seconds)} more on this CPU, with {size} x {size} pixels; {smaller}a GPU, a smaller "
                f"--backbone, or fewer --steps help as well"
            )

    def _update(self) -> None:
        if self.schedule is not None:
            self.schedule.step(self.step)
        if bad := self.update(self.step):
            self._skip(bad)
        self.step += 1
        position.moved(lambda: f"after step {self.step}")

    def _skip(self, bad: BadStep) -> None:
        """Do without a step that is not finite, which has changed nothing, or end the run by it."""
        health = self.update.health
        if not health.skips or health.too_many(bad.step):
            raise self._ended_by(bad)
        if len(health.skipped) <= _TOLD:
            more = "; the next are counted only" if len(health.skipped) == _TOLD else ""
            self.progress.note(f"{self._what(bad)}: skipped{more}")

    def _ended_by(self, bad: BadStep) -> SsmtlError:
        """The error for a step that is not finite, which is kept in the folder."""

        def keep() -> None:
            try:
                badstep.keep(self.folder, self.update, bad.step)
            except OSError as error:
                self.progress.note(f"{self.folder}: the step could not be kept ({error.strerror})")

        self._settle(wait=True)  # what it raises came first
        self.saver.on_first_rank(keep)
        skips = self.update.health.skips
        before = f"; {counted(skips, 'step')} before it skipped" if skips else ""
        ways = "" if skips else f", --resume {printable(self.folder)} --on-nan skip:3 does without such steps"
        return SsmtlError(
            f"{self._what(bad)}{before}; {self.saver.last_good()}; ssmtl run --replay {printable(self.folder)} says "
            f"what goes bad first{ways}; try a lower --lr, --clip 1 or --precision 32"
        )

    def _what(self, bad: BadStep) -> str:
        """What of a step is not finite, and which slices it saw."""
        rows = np.concatenate(
            [
                rows
                for part in range(self.config.accumulate)
                for draw in [self.load.sampler.draw((bad.step - 1) * self.config.accumulate + part)]
                for rows in (draw.anchors, *(rows for rows, _ in draw.companions))
            ]
        )
        losses = bad.losses
        what = f"the gradient is {bad.values[GRADIENT]} though all losses are finite"
        if losses:
            others = f", and {len(losses) - 1} more" if len(losses) > 1 else ""
            what = f"{self.model.called(losses[0])}: its loss is {bad.values[losses[0]]}{others}"
        return f"step {bad.step}: {what}, on {slices_told(self.store.scans, rows)}"

    def _probe(self) -> None:
        if self.best:
            self.best.look(self.step, self._epoch)

    def _draw(self) -> None:
        if self.samples:
            self.samples.look(self.step)

    def _flush(self, watched: Mapping[str, float] = MappingProxyType({})) -> None:
        """Write a line of metrics, also of the slices `watched`."""
        if bad := self.update.health.settle():
            raise self._ended_by(bad)
        means, extra = self.running_means.means(), self.update.extra_metrics()
        for name, value in extra.items():
            if name.endswith("/weight") and not math.isfinite(value):
                self._settle(wait=True)
                raise SsmtlError(
                    f"balancer {str(self.config.balancer)!r}: its factor of task {name.removesuffix('/weight')!r} is "
                    f"{value} by step {self.step}; {self.saver.last_good()}; try --balancer fixed"
                )
        for name in [name for name, value in means.items() if not math.isfinite(value)]:
            del means[name]
            if name not in self._not_finite:
                self.progress.note(f"metric {name!r} is not finite by step {self.step}; such values are not logged")
            self._not_finite.add(name)
        if means:
            record = {"step": self.step, "epoch": self._epoch, **means, **extra, **watched, **self._skipped_since()}
            self.saver.on_first_rank(functools.partial(self.log.append, record))
            if self.fabric.is_global_zero:
                self.progress.logged(record)

    def _skipped_since(self) -> dict[str, int]:
        """How many steps were skipped since the last line of metrics."""
        skipped = self.update.health.skipped
        last = self.log.records()[-1:] if skipped else []
        number = sum(step > record["step"] for record in last for step in skipped) if last else len(skipped)
        return {"skipped": number} if number else {}

    def _save(self) -> None:
        """Begin to write checkpoint and backbone; the log of their steps is on the disk before."""
        options, versions = self.config.of_roles(Role.NUMBERS), self._versions()
        about = {**self._machine(), "options": options, "versions": versions}
        about |= {"skipped": [*skipped]} if (skipped := self.update.health.skipped) else {}
        if self.best:
            about["probe"] = self.best.probe.labelled.fingerprint
        about |= {"seconds": self._seconds(), "length": self.steps}
        self.saver.checkpoint(self.step, about, self.log.sync)

    def _settle(self, *, wait: bool) -> None:
        with self._tolerated(self.saver.begun, last=False):
            self.saver.settle(wait=wait)

    @contextlib.contextmanager
    def _tolerated(self, step: int, last: bool) -> Iterator[None]:
        """What of a step cannot be written now may be written later: the training continues.

        Unless this is the `last` time, or so many checkpoints were lost that too much would be.
        """
        try:
            yield
        except UnwritableError as error:
            if last or step - max(self.saver.saved, 0) >= _MOST_LOST * self.config.checkpoint_every:
                raise
            self.progress.note(f"{error}; the training continues")

    def _epochs_after(self, step: int) -> int:
        """How many epochs are complete after so many steps."""
        return step * self.images_per_step // len(self.plan.anchors)

    def _leave_if_asked(self) -> None:
        number = self.leaving.asked_by(self.step)
        if number and self.step < self.steps:
            self._flush()
            self._settle(wait=True)
            self._save()
            self.saver.settle(wait=True)
            interrupts.number = number
            interrupts.check(
                f"step {self.step} of {self.steps} is saved; resume with: ssmtl run --resume {self.folder}"
            )

    def _seconds(self) -> float:
        """How long this training has taken, in all its sessions."""
        return round(self.seconds_before + time.perf_counter() - self.started, 1)

    def _sum_up(self, images_per_second: float, first_step: float) -> None:
        features = self.samples.features() if self.samples else None
        spreads = feature_spreads(self.fabric, self.config, self.model, self.store, self.plan)
        if not self.fabric.is_global_zero:
            return
        self.summary = {
            "run": str(self.folder),
            "backbone": str(self.config.backbone),
            "steps": self.step,
            "epochs": round(self.step * self.images_per_step / len(self.plan.anchors), 3),
            "tasks": self._tasks(spreads),
            "images_per_second": round(images_per_second, 1),
            "seconds": self._seconds(),
            "seconds_to_first_step": round(first_step, 2),
            "device": str(self.fabric.device),
            "slices": len(self.store.slices) - sum(self.store.scans[i].count for i in self.plan.idle),
            "anchors": len(self.plan.anchors),
            "held_out": self.held_out and self.held_out.to_json(),
            "probe": self.best and self.best.to_json(),
            "stacks": self.stacks.to_json(),
            "pairs": pairs_json(self.pairs),
            "scans": {
                "used": len(self.store.scans) - len(self.plan.idle),
                "skipped": [item.to_json() for item in self._skipped()],
                "notes": [{"scan": s.scan.name, "note": note} for s in self.store.scans for note in s.notes],
            },
            "skipped_steps": self.update.health.skipped,
            "blank_slices": sum(scan.blank for scan in self.store.scans),
            "features": features,
            "provenance": self._provenance(),
        }
        write_json(self.folder / SUMMARY, self.summary)

    def _provenance(self) -> dict[str, Any]:
        config = self.config
        specs = [config.data, config.backbone, *config.tasks, config.balancer, *config.augment]
        return provenance(specs, [config.seed], self.store.fingerprint, str(self.fabric.device))

    def _tasks(self, spreads: Mapping[Feature, float]) -> dict[str, Any]:
        """What became of each task, by label."""
        shares = gradient_shares(self.log, self.config.tasks, self.step)
        return {str(task): self._final(task, spreads, shares) for task in self.config.tasks}

    def _final(self, task: TaskSpec, spreads: Mapping[Feature, float], shares: Mapping[str, float]) -> dict[str, Any]:
        label = str(task)
        history = History.of(self.log, task, self.step, self.images_per_step, spreads)
        verdict = judge(task, history, self.pairs[label].hint if label in self.pairs else "")
        means = {"loss": history.means.get("loss"), "baseline": best_trivial(task, history.means)} | history.means
        watched = {"held_out": None, "seen": None} if history.watched is None else history.watched.to_json(task)
        auto = self.model.auto.values() if self.model.auto else {}
        means |= {"auto_weight": auto[label]} if label in auto else {}
        accuracy = None if self.saver.transfer else first_accuracy(self.log, task, self.images_per_step)
        usable = {} if verdict.word == "collapsed" else shares  # of constant features there is no gradient
        warnings = symptoms(task, history.means, usable, accuracy, self.config.balancer.weighs)
        return {**means, **watched, "verdict": verdict.word, "because": verdict.because, "warnings": warnings}

    def _skipped(self) -> list[Skipped]:
        idle = [self.store.scans[i] for i in self.plan.idle]
        return [
            *self.store.skipped,
            *(Skipped(scan.scan.name, no_pair(scan)) for scan in idle),
        ]


def no_pair(scan: StoredScan) -> str:
    """Why a scan is skipped that gives no task anything to do."""
    return f"its slices along the {scan.axis} axis ({scan.count}) give no pair for any task; another t may"
