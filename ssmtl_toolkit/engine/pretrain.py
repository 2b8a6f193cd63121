"""Pre-training: `pretrain` prepares, resumes, trains and saves; `_train` is the loop, top to bottom."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from safetensors import SafetensorError

from ssmtl_toolkit.config import RunConfig, RunSpecs
from ssmtl_toolkit.data.files import replacing, write_json
from ssmtl_toolkit.data.prepare import Prepare
from ssmtl_toolkit.data.sampling import Extent, Plan, Sampler, step_seed
from ssmtl_toolkit.data.store import LeftOut, SliceStore, build_store
from ssmtl_toolkit.engine import checkpoint
from ssmtl_toolkit.engine.device import is_first_process, make_fabric, seed_all
from ssmtl_toolkit.engine.interrupt import InterruptedRunError, Interrupts
from ssmtl_toolkit.engine.loader import Loader
from ssmtl_toolkit.engine.metrics import MetricLog, Window
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.progress import Progress
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.names import printable
from ssmtl_toolkit.registry import our_version, registry
from ssmtl_toolkit.specs import ReadableTest, ReaderSpec

BACKBONE, CONFIG, METRICS, SUMMARY, CHECKPOINTS = (
    "backbone.safetensors",
    "run.toml",
    "metrics.jsonl",
    "summary.json",
    "checkpoints",
)


@dataclass(frozen=True)
class Run:
    """A finished pre-training: its folder, and what `ssmtl run --json` prints."""

    folder: Path
    summary: dict[str, Any]

    @property
    def backbone(self) -> Path:
        """The file with the pre-trained encoder and decoder."""
        return self.folder / BACKBONE


def pretrain(
    config: RunConfig | None = None,
    /,
    *,
    out: str | Path,
    cache: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Pre-train a backbone on the slices of unlabelled scans.

    Args:
        config: all options as one object, or instead of it …
        options: … any of `RunConfig`'s options by name, specs as text or objects (`tasks=["reconstruct_prev:t=2"]`).
        out: the run folder; it must be new or empty, or hold the run to resume.
        cache: folder for prepared slices; by default the user's cache directory.
        resume: go on from the newest whole checkpoint in `out`.
        progress: hears what happens.

    Raises:
        UsageError: the options are wrong or do not go together.
        DataError: scans or checkpoints cannot be used.
        SsmtlError: the run failed.
    """
    progress = progress or Progress()
    config, specs = (config or RunConfig.of(options)).resolve()
    folder, cache = Path(out), Path(cache) if cache else default_cache()
    with _own(folder, resume):
        if resume:
            _check_same(config, folder)
        started = time.perf_counter()
        fabric = make_fabric(config, progress)
        store = open_store(config, specs, cache, progress)
        plan = make_plan(store, specs, progress)
        fabric.launch()
        trainer = Trainer(fabric, config, specs, store, plan, folder, progress)
        trainer.start(resume)
        trainer.run(started)
        return Run(folder, trainer.summary)


def default_cache() -> Path:
    """The user's cache directory for this toolkit ($XDG_CACHE_HOME/ssmtl)."""
    from platformdirs import user_cache_path

    return user_cache_path("ssmtl")


def open_store(config: RunConfig, specs: RunSpecs, cache: Path, progress: Progress) -> SliceStore:
    """List the dataset's scans and prepare their slices, or find them in the cache."""
    readers = [reader() for reader in registry().of(ReaderSpec)]
    scans = specs.dataset.scans(cache, ReadableTest(readers))
    progress.preparing(len(scans))
    options = Prepare(axis=config.axis, size=config.size, volume=config.volume, window=config.window)
    store = build_store(
        scans,
        readers,
        options,
        cache,
        skip_bad=config.skip_bad,
        placement=config.store,
        copies=config.devices,
        on_scan=progress.prepared,
    )
    _tell_oddities(store, progress)
    return store


def _tell_oddities(store: SliceStore, progress: Progress, most: int = 10) -> None:
    """Note what readers found odd, and scans that are not cut the same way."""
    notes = [f"{printable(scan.scan.path)}: {note}" for scan in store.scans for note in scan.notes]
    for note in notes[:most]:
        progress.note(note)
    if len(notes) > most:
        progress.note(f"… and {len(notes) - most} more such notes, all in {SUMMARY}")
    axes = Counter(scan.axis for scan in store.scans)
    if len(axes) > 1:
        counted = ", ".join(f"{number} {axis}" for axis, number in axes.most_common())
        progress.note(f"the scans were acquired along different axes ({counted}); choose one by --axis")


def make_plan(store: SliceStore, specs: RunSpecs, progress: Progress) -> Plan:
    """Find the anchors, and refuse a task that no scan can give a pair for.

    Raises:
        DataError: naming the task and the longest scan.
    """
    extents = [Extent(scan.start, scan.count, scan.spacing) for scan in store.scans]
    offsets = {
        spacing: {str(task): task.companions(spacing) for task in specs.tasks}
        for spacing in {e.spacing for e in extents}
    }
    plan = Plan(extents, [offsets[extent.spacing] for extent in extents])
    for label, names in plan.columns.items():
        for name, column in names.items():
            if plan.pairs[column] == 0:
                raise DataError(
                    f"task {label!r}: no scan has slices far enough apart for its {name} (the longest has "
                    f"{max(e.count for e in extents)} slices along the {store.scans[0].axis} axis); "
                    f"choose a smaller t or another --axis"
                )
    for remark in (remark for task in specs.tasks for remark in task.remarks(len(plan.anchors))):
        progress.note(remark)
    for i in plan.idle:
        scan = store.scans[i]
        progress.note(f"{printable(scan.scan.path)}: left out, its {scan.count} slices give no pair for any task")
    return plan


@contextlib.contextmanager
def _own(folder: Path, resume: bool) -> Iterator[None]:
    """Hold the run folder for this process; a second run in it is refused."""
    if not is_first_process():
        yield
        return
    if resume and not (folder / CONFIG).is_file():
        raise UsageError(f"{folder}: there is no run to resume (no {CONFIG}); give the folder of an earlier run")
    if not resume and folder.is_dir() and any(p.name != ".lock" for p in folder.iterdir()):
        raise UsageError(f"{folder}: is not empty; choose another --out, or go on with that run by --resume {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise SsmtlError(f"{folder}: another process is training in this folder; wait for it or stop it") from None
    except OSError as error:
        raise SsmtlError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
    with lock:
        for part in [*folder.glob("*.part"), *folder.glob(".*.part"), *(folder / CHECKPOINTS).glob(".*.part")]:
            shutil.rmtree(part) if part.is_dir() else part.unlink()  # left by a run that was killed while writing
        yield


def _check_same(config: RunConfig, folder: Path) -> None:
    """Refuse to go on with options that would make another run of it."""
    before, _ = RunConfig.of(RunConfig.read(folder / CONFIG), str(folder / CONFIG)).resolve()
    changed = config.differences(before)
    if changed:
        raise UsageError(
            f"{folder}: cannot be resumed with other options: {'; '.join(changed)}; "
            f"leave them out, or start a new run with --config {folder / CONFIG}"
        )


class Trainer:
    """One training: its modules, its loop and its files."""

    def __init__(
        self,
        fabric: Fabric,
        config: RunConfig,
        specs: RunSpecs,
        store: SliceStore,
        plan: Plan,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.fabric, self.config, self.specs, self.folder, self.progress = (
            fabric,
            config,
            specs,
            folder,
            progress,
        )
        self.plan = plan
        self.store = store.to(fabric.device) if _on_gpu(store, config, fabric) else store
        seed_all(config.seed, fabric.device)
        self.model = MultiTask.build(specs.backbone, specs.tasks, specs.balancer)
        _check_size(self.model, config)
        if config.channels_last == "on" or (config.channels_last == "auto" and fabric.device.type == "cuda"):
            self.model = self.model.to(memory_format=torch.channels_last)
        if config.compile:
            self.model.backbone.encoder.compile()
            self.model.backbone.decoder.compile()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        fused = fabric.device.type in {"cpu", "cuda"}
        optimizer = torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        self.wrapped, self.optimizer = fabric.setup(self.model, optimizer)
        self.wrapped.train()
        sampler = Sampler(plan, config.batch_size, config.seed, fabric.global_rank, fabric.world_size)
        self.load = Loader(self.store, sampler, fabric.device, config.accumulate)
        self.window = Window(lambda sums: self._sum(sums))
        self.log = MetricLog(folder / METRICS)
        self.step = 0
        self.saved = -1
        self.summary: dict[str, Any] = {}

    @property
    def images_per_step(self) -> int:
        return self.config.batch_size * self.config.accumulate * self.fabric.world_size

    @property
    def steps(self) -> int:
        """Number of updates: as given, or enough for every anchor to be seen `epochs` times."""
        return self.config.steps or math.ceil(self.config.epochs * len(self.plan.anchors) / self.images_per_step)

    def start(self, resume: bool) -> None:
        """Write run.toml, or put back the state of the newest checkpoint."""
        if resume:
            self._resume()
        if self.fabric.is_global_zero:
            self.log.cut(self.step)
            with replacing(self.folder / CONFIG) as temporary:
                temporary.write_text(self.config.write(), encoding="utf-8")
        self.fabric.barrier()

    def _resume(self) -> None:
        found = checkpoint.newest(self.folder / CHECKPOINTS, self.progress.note)
        if found is None:
            self.progress.note(f"{self.folder}: no checkpoint yet, starting from the first step")
            return
        for what, now in (("scans", self.store.fingerprint), ("world size", self.fabric.world_size)):
            before = found.about[what.replace(" ", "_")]
            if before != now and what == "scans":
                raise DataError(
                    f"{found.path}: the scans are not those of this run any more (their contents or order differ); "
                    f"bring them back, or start a new run"
                )
            if before != now:
                self.progress.note(f"{what} is {now}, was {before}: the run goes on, but not bit for bit the same")
        checkpoint.restore(found, self.model, self.optimizer.optimizer)
        self.step = self.saved = found.step
        self.progress.note(f"goes on after step {found.step}")

    def run(self, started: float) -> None:
        """Train to the last step, save, and sum up."""
        self.progress.training(self.step, self.steps, self.images_per_step)
        first_step = None
        images, clock = 0, time.perf_counter()
        with Interrupts() as interrupts:
            while self.step < self.steps:
                self._update()
                self.progress.stepped(self.step)
                images += self.images_per_step
                if first_step is None:  # its time holds warm-up and is left out of images/s
                    first_step, images, clock = time.perf_counter() - started, 0, time.perf_counter()
                last, save = self.step == self.steps, self.step % self.config.checkpoint_every == 0
                if last or save or self.step % self.config.log_every == 0:
                    self._flush()
                    if last or save:
                        self._save()
                self._leave_if_asked(interrupts)
        seconds = time.perf_counter() - clock
        self._sum_up(images / seconds if images else 0.0, time.perf_counter() - started, first_step or 0.0)
        self.progress.done()

    def _update(self) -> None:
        """One weight update: forward and backward of `accumulate` batches, then Adam."""
        config = self.config
        for part in range(config.accumulate):
            index = self.step * config.accumulate + part
            seed_all(step_seed(config.seed, index, self.fabric.global_rank), self.fabric.device)
            with self.fabric.no_backward_sync(self.wrapped, enabled=part < config.accumulate - 1):
                loss, outputs = self.wrapped(self.load(index))
                self.fabric.backward(loss / config.accumulate)
            self.window.add(outputs)
        if config.clip is not None:
            self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _sum(self, sums: torch.Tensor) -> torch.Tensor:
        if self.fabric.world_size == 1:
            return sums
        total = self.fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(total, torch.Tensor)
        return total

    def _flush(self) -> None:
        """Write a line of metrics; a loss that is not a number ends the run before it reaches a checkpoint."""
        means = self.window.means()
        for name, value in means.items():
            if name.endswith("/loss") and not math.isfinite(value):
                raise SsmtlError(
                    f"task {name.removesuffix('/loss')!r}: its loss is {value} by step {self.step}; "
                    f"{self._last_good()}; try a lower --lr, --clip 1 or --precision 32"
                )
        if self.fabric.is_global_zero and means:
            epoch = self.step * self.images_per_step / len(self.plan.anchors)
            record = {"step": self.step, "epoch": round(epoch, 4), **means}
            self.log.append(record)
            self.progress.logged(record)

    def _last_good(self) -> str:
        return f"the checkpoint of step {self.saved} is good" if self.saved > 0 else "there is no checkpoint yet"

    def _save(self) -> None:
        """Write checkpoint and backbone, on the first rank; the others wait."""
        if self.saved != self.step and self.fabric.is_global_zero:
            about = {
                "step": self.step,
                "scans": self.store.fingerprint,
                "world_size": self.fabric.world_size,
                "version": our_version(),
            }
            checkpoint.save(
                self.folder / CHECKPOINTS, self.model, self.optimizer.optimizer, about, keep=self.config.keep
            )
            self._save_backbone()
        self.saved = self.step
        self.fabric.barrier()

    def _save_backbone(self) -> None:
        try:
            checkpoint.save_backbone(self.folder / BACKBONE, self.model.backbone, self._about())
        except (OSError, SafetensorError) as error:
            raise SsmtlError(f"{self.folder / BACKBONE}: cannot be written: {error}; {self._last_good()}") from error

    def _about(self) -> dict[str, Any]:
        """What backbone.safetensors tells of itself; no paths, no patient names."""
        found = registry()
        prepare = {k: getattr(self.config, k) for k in ("axis", "size", "volume", "window")}
        dense = any("dense" in task.needs for task in self.specs.tasks)
        return {
            "version": our_version(),
            "backbone": found.origin(self.specs.backbone),
            "tasks": [found.origin(task) for task in self.specs.tasks],
            "balancer": found.origin(self.specs.balancer),
            "prepare": prepare,
            "trained": ["encoder", "decoder"] if dense else ["encoder"],
            "scans": {"number": len(self.store.scans), "fingerprint": self.store.fingerprint},
            "step": self.step,
            "seed": self.config.seed,
            "torch": torch.__version__,
        }

    def _leave_if_asked(self, interrupts: Interrupts) -> None:
        number = interrupts.number
        if self.fabric.world_size > 1:
            if self.step % self.config.log_every:
                return  # the ranks agree where they meet anyway
            mine = torch.tensor(float(number), device=self.fabric.device)
            number = int(self.fabric.all_reduce(mine, reduce_op="max"))  # type: ignore[arg-type]
        if number and self.step < self.steps:
            self._flush()
            self._save()
            raise InterruptedRunError(
                f"stopped by signal {number} after step {self.step} of {self.steps}, state saved; "
                f"go on with: ssmtl run --resume {self.folder}",
                number,
            )

    def _sum_up(self, images_per_second: float, seconds: float, first_step: float) -> None:
        if not self.fabric.is_global_zero:
            return
        self._save_backbone()  # once more: a run killed right after its last checkpoint has an older one
        self.summary = {
            "run": str(self.folder),
            "backbone": str(self.specs.backbone),
            "steps": self.step,
            "epochs": round(self.step * self.images_per_step / len(self.plan.anchors), 3),
            "tasks": {str(task): self._final(task) for task in self.specs.tasks},
            "images_per_second": round(images_per_second, 1),
            "seconds": round(seconds, 1),
            "seconds_to_first_step": round(first_step, 2),
            "device": str(self.fabric.device),
            "slices": len(self.store.slices),
            "anchors": len(self.plan.anchors),
            "scans": {
                "used": len(self.store.scans) - len(self.plan.idle),
                "left_out": [{"scan": item.name, "reason": item.reason} for item in self._left_out()],
                "notes": [{"scan": s.scan.name, "note": note} for s in self.store.scans for note in s.notes],
            },
            "blank_slices": sum(scan.blank for scan in self.store.scans),
        }
        write_json(self.folder / SUMMARY, self.summary)

    def _final(self, task: Any) -> dict[str, Any]:
        means = self.log.final(str(task), ("loss", *task.metrics))
        return {"loss": means.pop("loss", None), "baseline": task.baseline, **means}

    def _left_out(self) -> list[LeftOut]:
        idle = [self.store.scans[i] for i in self.plan.idle]
        return [
            *self.store.left_out,
            *(LeftOut(scan.scan.name, f"its {scan.count} slices give no pair for any task") for scan in idle),
        ]


def _on_gpu(store: SliceStore, config: RunConfig, fabric: Fabric) -> bool:
    """Whether the store goes to the GPU: when asked, or when it takes less than a quarter of its free memory."""
    if fabric.device.type != "cuda":
        if config.store == "gpu":
            raise UsageError(f"--store gpu: the run is on {fabric.device}; choose auto, ram or disk")
        return False
    if config.store == "auto":
        free, _ = torch.cuda.mem_get_info(fabric.device)
        return store.slices.nbytes < free // 4
    return config.store == "gpu"


def _check_size(model: MultiTask, config: RunConfig) -> None:
    """Run the network once on an empty image, so that a size it cannot take is told before training."""
    model.eval()
    try:
        with torch.no_grad():
            features = model.backbone(torch.zeros(2, 1, config.size, config.size))
            pooled, dense = features.pooled.shape, features.dense.shape
    except RuntimeError as error:
        raise UsageError(
            f"backbone {config.backbone}: cannot take images of {config.size} x {config.size} pixels "
            f"({str(error).splitlines()[0][:200]}); try a --size that is a multiple of 32, or a larger one"
        ) from error
    wanted = (model.backbone.pooled_channels, model.backbone.dense_channels)
    if (pooled[1], dense[1]) != wanted or dense[2:] != (config.size, config.size):
        raise SsmtlError(
            f"backbone {config.backbone}: gives {pooled[1]} pooled and {dense[1]} dense channels, says {wanted}"
        )
