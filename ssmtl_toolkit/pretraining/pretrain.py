"""Pre-training from options to a run folder: prepare the slices, plan the pairs, train, sum up."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from lightning_fabric import Fabric

from ssmtl_toolkit.config import ResolvedRun, RunConfig
from ssmtl_toolkit.config.signatures import takes
from ssmtl_toolkit.data.held_out import choose_held_out
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.sampling import Plan, batch_shares
from ssmtl_toolkit.data.split import Split, with_patients
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.distance import check_unit, is_length
from ssmtl_toolkit.engine.building import check_buildable
from ssmtl_toolkit.engine.contract import companions_of
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.features import parts_of
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.pretraining import start as start_weights
from ssmtl_toolkit.pretraining.fitting import as_begun, fit_tasks
from ssmtl_toolkit.pretraining.labelled import gather_labelled
from ssmtl_toolkit.pretraining.trainer import Trainer, no_pair
from ssmtl_toolkit.pretraining.verdict import refuse_diverged
from ssmtl_toolkit.pretraining.watch import HeldOut, tell_held_out
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.reporting.ending import report_at_end
from ssmtl_toolkit.runtime.device import agree, connect, make_fabric
from ssmtl_toolkit.runtime.folder import BACKBONE, CONFIG, chosen_backbone, hold_folder
from ssmtl_toolkit.runtime.heartbeat import heartbeat
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.notebook import default_progress
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.recording import Recorder
from ssmtl_toolkit.runtime.results import Result, Rows
from ssmtl_toolkit.runtime.scans import default_cache, list_scans, measured, prepare, reading_of
from ssmtl_toolkit.specs import Scan, TaskSpec, named
from ssmtl_toolkit.text import counted, printable

if TYPE_CHECKING:
    from ssmtl_toolkit.config.typed import RunOptions

_SCORES = ("tasks", "probe", "seconds", "images_per_second")  # what of the summary goes to trackers


class Run(Result):
    """A finished pre-training, which `finetune` starts from: the best step by `--probe`, without one the last."""

    @property
    def backbone(self) -> Path:
        """The file with encoder and decoder after the last step."""
        return self.folder / BACKBONE

    @property
    def chosen(self) -> Path:
        """The file that `finetune` and others take: the best step by the probe if there was one, else the last."""
        return chosen_backbone(self.folder)

    def rows(self) -> Rows:
        tasks = self.summary.get("tasks", {})
        return [("task", "loss", "best trivial answer", "verdict"), *(_row(label, tasks[label]) for label in tasks)]


def _row(label: str, task: Mapping[str, Any]) -> Sequence[str]:
    loss, best = task["loss"], task["baseline"]
    trivial = f"{task[best]:.4f} ({best})" if best else ""
    return label, "no pairs" if loss is None else f"{loss:.4f}", trivial, task["verdict"]


@takes(RunConfig)
def pretrain(
    config: RunConfig | None = None,
    /,
    *,
    out: str | Path,
    cache: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **options: Unpack[RunOptions],
) -> Run:
    """Pre-train a backbone on the slices of unlabelled scans.

    Args:
        config: all options as one object, or instead of it …
        options: … any of `RunConfig`'s options by name, specs as text or objects (`tasks=["reconstruct_prev:t=2"]`).
        out: the run folder; it must be new or empty, or hold the run to resume.
        cache: folder for prepared slices; by default the user's cache directory.
        resume: continue from the newest intact checkpoint in `out`.
        progress: is notified of what happens, to show it; by default the output of a notebook's cell.

    Raises:
        UsageError: the options are wrong or do not go together.
        DataError: scans or checkpoints cannot be used.
        SsmtlError: the run failed.
        DivergedError: a loss diverged; the folder is written like that of any run, `summary` is its summary.
    """
    if config is not None and options:
        raise UsageError(f"both a configuration and options ({', '.join(options)}) are given; put them into one")
    resolved = (config or RunConfig.of(options)).resolve()
    folder, cache = Path(out), Path(cache) if cache else default_cache()
    progress = record = Recorder(folder, "run", progress or default_progress())
    for plugin in registry().broken:
        progress.note(f"plugin {plugin.name!r} of {plugin} did not load: {plugin.error}")
    if resolved.head is not None and "decoder" in parts_of(resolved.head.needs) and "decoder" not in resolved.trained:
        progress.note("no task trains the decoder: the head will start on a fresh one, as the paper's MoCo V2 baseline")
    auto = [str(task) for task in resolved.tasks if task.weight == "auto"]
    if auto and not resolved.balancer.weighs:
        progress.note(f"under balancer {resolved.balancer.name!r} weights cancel out; weight=auto changes nothing")
    others = launch(resolved.devices, resolved.nodes).started
    fabric = make_fabric(resolved, progress, resolved.devices, resolved.nodes, resolved.strategy)
    watched = heartbeat(fabric, resolved.rank_timeout, f"resume with: ssmtl run --resume {printable(folder)}")
    with interrupts, _hold_folder(folder, resume, fabric, others), record, contextlib.ExitStack() as stack:
        if others:
            stack.enter_context(watched)
        if resume:
            resolved = as_begun(resolved, folder)
            _check_same(resolved, folder)
        started = time.perf_counter()
        start = start_weights.opened(resolved, folder)
        resolved = start_weights.continued(resolved, start) if start else resolved
        check_buildable(resolved.backbone, resolved.tasks)
        if start:
            start_weights.check(start, resolved, progress)
        if resolved.probe:
            list_scans(resolved.probe, cache)  # before anything is decoded
        reading = reading_of(resolved.slicing, cache, progress)
        resolved, store, plan, held_out = prepared(resolved, reading, progress)
        labelled = gather_labelled(resolved, store.channels, reading, progress)
        interrupts.check("nothing was trained yet")
        if not others:
            connect(fabric)
            agree(fabric)
            stack.enter_context(watched)
        trainer = Trainer(fabric, resolved, store, plan, folder, progress, held_out, labelled, start)
        trainer.start(resume)
        if fabric.is_global_zero:
            record.begin(resolved, resolved.track, fabric.device)
        trainer.run(started)
        record.scores({name: trainer.summary.get(name) for name in _SCORES})
        if fabric.is_global_zero:
            report_at_end(folder, resolved.report, progress)
        refuse_diverged(folder, trainer.summary)
        return Run(folder, trainer.summary)


def prepared(
    config: ResolvedRun, reading: Reading, progress: Progress
) -> tuple[ResolvedRun, SliceStore, Plan, HeldOut | None]:
    """Store the slices, find those that can be anchors, hold some scans out; set options that the data decide."""
    cache, decoded = reading.cache, reading.decoded
    scans = chosen_scans(config, cache, progress)
    config = config.model_copy(update={"normalise": measured(reading, scans, progress).normalise})
    read = decoded.scan if config.probe is None else decoded.kept  # labels are cut as their scan is
    usable = prepare(scans, config.slicing, cache, progress, skip_bad=config.skip_bad, read=read)
    if config.probe is None:
        decoded.forget(scans)
    apart = choose_held_out(usable.scans, config.held_out, config.seed)
    trained_on = sorted(set(range(len(usable.scans))) - set(apart))
    store = usable.open(trained_on, placement=config.store, copies=config.devices)
    config = fit_tasks(config, store, progress)
    plan = make_plan(store, config.tasks, progress)
    held_out = None
    if apart:
        others = usable.open(apart, copies=config.devices)
        held_out = HeldOut(others, plan_of(others, config.tasks))
    tell_held_out(held_out, len(usable.scans), progress)
    if config.patients_per_batch is not None:
        check_patients(plan, config.patients_per_batch, config.batch_size, progress)
    if config.batch_size > (number := len(plan.anchors)):
        progress.note(
            f"a batch of {config.batch_size} is more than the {number} slices to train on: it holds some of "
            f"them several times; --batch-size {number} or less avoids it"
        )
    return config, store, plan, held_out


@contextlib.contextmanager
def _hold_folder(folder: Path, resume: bool, fabric: Fabric, others: bool) -> Iterator[None]:
    """Hold the run folder in the process that writes.

    `others` that are started already are connected before: if the folder is refused, all exit with that error, and
    none waits for one that has gone.
    """
    if others:
        connect(fabric)
    with contextlib.ExitStack() as held:
        problem = None
        try:
            if fabric.is_global_zero:
                held.enter_context(hold_folder(folder, resume))
        except SsmtlError as error:
            if not others:
                raise
            problem = error
        if others:
            agree(fabric, problem)
        yield


def chosen_scans(config: ResolvedRun, cache: Path, progress: Progress) -> list[Scan]:
    """List the scans to pre-train on: all, or those of other patients than a split's validation and test."""
    scans = list_scans(config.data, cache, progress.note, in_time=config.in_time)
    with foreign(f"{named(config.data)}, asked for its layout,"):
        layout = config.data.layout()
    if layout:
        progress.say(f"layout    {printable(layout)}")
    if config.without is None:
        return scans
    split = Split.read(config.without)
    scans, notes = with_patients(scans, split.pattern)
    held = {*split.validation, *split.test}
    kept = [scan for scan in scans if scan.patient not in held]
    if unknown := sorted(held - {scan.patient for scan in scans}):
        raise DataError(f"{config.without}: its patient {unknown[0]!r} is not in the data ({len(unknown)} such)")
    skipped = f"{counted(len(scans) - len(kept), 'scan')} of {len(held)} validation and test patients skipped"
    for note in [*notes, skipped]:
        progress.note(note)
    return kept


def make_plan(store: SliceStore, tasks: Sequence[TaskSpec], progress: Progress) -> Plan:
    """Find the anchors, and refuse a task for which no scan has a pair.

    Raises:
        DataError: naming the task and the longest scan.
    """
    extents, plan = store.extents, plan_of(store, tasks)
    for label, names in plan.columns.items():
        for name, column in names.items():
            if not plan.candidates[column].number.any():
                if store.reach:
                    raise DataError(
                        f"task {label!r}: its {name} is no more than {2 * store.reach} slices away, and with a context "
                        f"of {store.reach} it shows slices that the anchor shows too; choose a t above "
                        f"{2 * store.reach}, or less context"
                    )
                raise DataError(
                    f"task {label!r}: no scan has slices near enough together for its {name} (they are "
                    f"{_range([e.spacing for e in extents])} {store.unit} apart); choose a larger distance"
                )
            if plan.pairs[column] == 0:
                raise DataError(
                    f"task {label!r}: no scan has slices far enough apart for its {name} (the longest has "
                    f"{max(e.length for e in extents)} slices along the {store.scans[0].axis} axis); "
                    f"choose a smaller t or another --axis"
                )
    for task in tasks:
        with foreign(f"{named(task)}, asked for its remarks,"):
            remarks = list(task.remarks(len(plan.anchors)))
        for remark in remarks:
            progress.note(remark)
    for i in plan.idle:
        scan = store.scans[i]
        progress.note(f"{printable(scan.scan.path)}: skipped: {no_pair(scan)}")
    return plan


def check_patients(plan: Plan, wanted: int, batch_size: int, progress: Progress) -> None:
    """Refuse more patients in a batch than there are; note whose slices are seen less often, or twice in a batch.

    Raises:
        UsageError: naming both numbers.
    """
    counts = np.array([len(rows) for rows in plan.by_patient()])
    option, there = f"--patients-per-batch {wanted}", counted(len(counts), "patient")
    if wanted > len(counts):
        raise UsageError(
            f"{option}: the scans to train on are of {there}; choose {len(counts)} or fewer, or give more scans"
        )
    seen = batch_shares(counts, wanted)[0] / counts
    if rare := int((seen < seen.max()).sum()):
        progress.note(
            f"{option}: {rare} of {there} have more slices than their share of all batches; they are in each, and "
            f"their slices are seen less often than those of others (down to {100 * seen.min() / seen.max():.0f} %)"
        )
    if few := int((counts < math.ceil(batch_size / wanted)).sum()):
        progress.note(
            f"{option}: {few} of {there} have fewer slices than a batch takes of each, which then holds some of them "
            f"several times"
        )


def plan_of(store: SliceStore, tasks: Sequence[TaskSpec]) -> Plan:
    """Find the anchors, if there are any; companions that show slices of their anchor's context are none."""
    _check_units(store, tasks)
    extents = store.extents
    offsets = {
        spacing: {str(task): _companions(task, spacing, 2 * store.reach) for task in tasks}
        for spacing in {e.spacing for e in extents}
    }
    return Plan(extents, [offsets[extent.spacing] for extent in extents])


def _check_units(store: SliceStore, tasks: Sequence[TaskSpec]) -> None:
    """Refuse distances in mm between frames, in ms between slices, and in ms if a scan does not say how many these are.

    Raises:
        UsageError: naming the task.
        DataError: naming the scan.
    """
    in_time = store.scans[0].frames is not None
    for task in tasks:
        check_unit(f"task {str(task)!r}", task, in_time=in_time)
    unknown = next((scan for scan in store.scans if in_time and not scan.spacing), None)
    for task in tasks if unknown else []:
        if any(is_length(value) for _, value in task):
            assert unknown is not None
            raise DataError(
                f"{printable(unknown.scan.path)}: does not say how many ms lie between its frames, which task "
                f"{str(task)!r} needs to know; give a number of frames"
            )


def _companions(task: TaskSpec, spacing: float, overlap: int) -> Mapping[str, Sequence[int]]:
    """The offsets of a task's companions, without those of `overlap` slices or fewer, unless that is 0."""
    companions = companions_of(task, spacing)
    if not overlap:
        return companions
    return {name: [o for o in offsets if abs(o) > overlap] for name, offsets in companions.items()}


def _range(numbers: Collection[float]) -> str:
    low, high = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return low if low == high else f"{low} to {high}"


def _check_same(config: ResolvedRun, folder: Path) -> None:
    """Refuse to resume with options that would make it another run."""
    changed = config.differences(RunConfig.of(RunConfig.read(folder / CONFIG), str(folder / CONFIG)))
    if changed:
        raise UsageError(
            f"{folder}: cannot be resumed with other options: {'; '.join(changed)}; "
            f"omit them, or start a new run with --config {folder / CONFIG}"
        )
