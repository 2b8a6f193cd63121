"""Prediction: scans in, label maps or images out, on the scans' own grid."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.files import real, write_json
from ssmtl_toolkit.data.output import keep_largest, scratch_array, write_like
from ssmtl_toolkit.data.reading import read_volume
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.engine.device import make_fabric
from ssmtl_toolkit.engine.downstream import Predictor, Recipe, model_file
from ssmtl_toolkit.engine.folder import PREDICTION
from ssmtl_toolkit.engine.interrupt import interrupts
from ssmtl_toolkit.engine.pretrain import default_cache, list_scans, readers
from ssmtl_toolkit.engine.progress import Progress
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.names import printable
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import Scan

Existing = Literal["error", "skip", "overwrite"]


@dataclass(frozen=True)
class Wanted:
    """What is written for each scan beside the prediction itself."""

    probabilities: bool = False
    overlay: bool = False
    largest_component: bool = False


@dataclass(frozen=True)
class _Job:
    scan: Scan
    file: Path  # the prediction; what goes beside it is named after it

    def beside(self, ending: str) -> Path:
        return self.file.with_name(self.file.name.removesuffix(".nii.gz") + ending)


def predict(
    source: str | os.PathLike[str],
    scans: Sequence[str | Path] | str | Path,
    /,
    *,
    out: str | Path,
    head: str | None = None,
    probabilities: bool = False,
    overlay: bool = False,
    largest_component: bool = False,
    volume: int | None = None,
    batch_size: int = 16,
    existing: Existing = "error",
    accelerator: str = "auto",
    precision: Literal["auto", "32", "bf16"] = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Use a fine-tuned model on scans; each prediction is written as NAME.nii.gz below `out`.

    Args:
        source: run folder of a fine-tuning (its first repetition is used), a folder in it, or a model file.
        scans: files, folders (as for `--data`), or datasets by name.
        out: folder for the predictions; prediction.json in it says by which model and which value is which class.
        head: name of the head that the model must have; None: any.
        probabilities: write NAME_probabilities.nii.gz too, (I, J, K, classes) float32, background first.
        overlay: write NAME.png too, the labels over the slices.
        largest_component: keep only the largest connected part of each class.
        volume: which volume to take of 4-D files; None: as the model was trained.
        batch_size: slices in a batch, which bounds the memory beside that of the scan.
        existing: what to do with predictions that are there already.
        accelerator: auto, cpu, cuda, mps.
        precision: auto, 32, bf16.
        progress: hears what happens.

    Returns:
        The files, the scans that could not be used and why, and how long it took.

    Raises:
        UsageError: options, model and scans do not go together; nothing was written.
        DataError: the model cannot be read, or there is no scan.
    """
    progress = progress or Progress()
    file = model_file(Path(source))
    with interrupts:
        recipe, model = Recipe.load(file)
        if volume is not None:
            changed = recipe.prepare.model_copy(update={"volume": volume})
            recipe = Recipe(recipe.backbone, recipe.head, changed, recipe.classes)
        wanted = Wanted(probabilities, overlay, largest_component)
        _check(recipe, head, wanted, batch_size, file)
        jobs, left_out = _jobs([scans] if isinstance(scans, str | Path) else scans, Path(out), existing, wanted)
        for item in left_out:
            progress.note(f"left out: {item['reason']}")
        fabric = make_fabric(RunConfig(accelerator=accelerator, precision=precision), progress)
        predictor = Predictor(recipe, model, fabric, batch_size)
        return _Prediction(predictor, wanted, Path(out), file, progress).run(jobs, left_out)


def _check(recipe: Recipe, head: str | None, wanted: Wanted, batch_size: int, file: Path) -> None:
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    if head is not None and head.partition(":")[0] != recipe.head.name:
        raise UsageError(f"{printable(file)}: is a model for {recipe.head.name!r}, not for {head!r}; check --from")
    for name, asked in vars(wanted).items():
        if asked and recipe.classes is None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for labels, and head {recipe.head.name!r} gives none; leave it out"
            )


def _jobs(
    given: Sequence[str | Path], out: Path, existing: Existing, wanted: Wanted
) -> tuple[list[_Job], list[dict[str, str]]]:
    """List the scans and where their predictions go; nothing may be written twice, nor over a scan."""
    jobs: dict[Path, _Job] = {}
    left_out = []
    target = real(out)
    for item in given:
        place = real(Path(item))
        asked_for = place == target or target in place.parents
        for scan in list_scans(registry().dataset(str(item)), default_cache()):
            if target in real(scan.path).parents and not asked_for:
                continue  # predictions of an earlier call, below the folder of the scans
            if scan.unfit:
                left_out.append({"scan": scan.name, "reason": scan.unfit})
                continue
            job = _Job(scan, out / f"{scan.name}.nii.gz")
            other = jobs.get(job.file)
            if other and real(other.scan.path) != real(scan.path):
                raise UsageError(
                    f"{printable(other.scan.path)} and {printable(scan.path)} would both be written to "
                    f"{printable(job.file)}; predict them into two folders"
                )
            jobs[job.file] = job
    if not jobs and not left_out:
        raise DataError(f"there is no scan to predict in {', '.join(printable(str(item)) for item in given)}")
    _check_targets(jobs, existing, wanted)
    if existing == "skip":
        left_out += [
            {"scan": job.scan.name, "reason": f"{printable(file)}: is there already"}
            for file, job in jobs.items()
            if file.exists()
        ]
        jobs = {file: job for file, job in jobs.items() if not file.exists()}
    return list(jobs.values()), left_out


def _check_targets(jobs: dict[Path, _Job], existing: Existing, wanted: Wanted) -> None:
    sources = {real(job.scan.path) for job in jobs.values()}
    endings = [".nii.gz", *(["_probabilities.nii.gz"] * wanted.probabilities), *([".png"] * wanted.overlay)]
    targets = [job.beside(ending) for job in jobs.values() for ending in endings]
    for target in targets:
        if real(target) in sources:
            raise UsageError(
                f"{printable(target)}: is one of the scans, and would be overwritten; choose another --out"
            )
    there = [target for target in targets if target.exists()]
    if there and existing == "error":
        raise UsageError(
            f"{printable(there[0])}: is there already ({len(there)} of {len(targets)} files are); choose another "
            f"--out, or --existing skip or overwrite"
        )


class _Prediction:
    """One call of `predict`, scan by scan."""

    def __init__(self, predictor: Predictor, wanted: Wanted, out: Path, file: Path, progress: Progress) -> None:
        self.predictor, self.wanted, self.out, self.file, self.progress = predictor, wanted, out, file, progress
        self.readers = readers()
        self.slices, self.seconds = 0, 0.0

    def run(self, jobs: Sequence[_Job], left_out: list[dict[str, str]]) -> dict[str, Any]:
        """Predict every scan; one that cannot be used does not stop the others."""
        written: list[str] = []
        failed: list[dict[str, str]] = []
        started = time.perf_counter()
        self.progress.preparing(len(jobs))
        for job in jobs:
            interrupts.check(f"{len(written)} of {len(jobs)} scans are done; go on by --existing skip")
            try:
                written.append(self._scan(job))
            except DataError as error:
                failed.append({"scan": job.scan.name, "reason": str(error)})
                self.progress.note(str(error))
            self.progress.prepared(job.scan.name)
        self.progress.done()
        result = {
            "model": str(self.file),
            "head": str(self.predictor.recipe.head),
            "out": str(self.out),
            "classes": self.predictor.recipe.classes and self.predictor.recipe.classes.to_json(),
            "written": written,
            "failed": failed,
            "left_out": left_out,
            "slices": self.slices,
            "seconds": round(time.perf_counter() - started, 3),
            "seconds_of_network": round(self.seconds, 3),
        }
        if written:
            write_json(self.out / PREDICTION, {k: result[k] for k in ("model", "head", "classes")})
        return result

    def _scan(self, job: _Job) -> str:
        prepare = self.predictor.recipe.prepare
        volume = read_volume(job.scan.path, self.readers, prepare.volume)
        for note in volume.notes:
            self.progress.note(f"{printable(job.scan.path)}: {note}")
        try:
            if self.predictor.recipe.classes is None:
                self._image(job, volume)
            else:
                self._labels(job, volume)
        except DataError as error:
            raise DataError(f"{printable(job.scan.path)}: {error}") from error
        return str(job.file)

    def _image(self, job: _Job, volume: Volume) -> None:
        started = time.perf_counter()
        image = self.predictor.image(volume)
        self._timed(started, volume)
        write_like(job.file, image, volume, what="image")

    def _labels(self, job: _Job, volume: Volume) -> None:
        classes = self.predictor.recipe.classes
        assert classes is not None
        with self._probabilities(volume, len(classes) + 1) as probabilities:
            started = time.perf_counter()
            index = self.predictor.labels(volume, probabilities)
            self._timed(started, volume)
            if self.wanted.largest_component:
                index = keep_largest(index)
            if probabilities is not None:
                stack = Stack.of(volume, self.predictor.recipe.prepare.axis)
                write_like(job.beside("_probabilities.nii.gz"), stack.back(probabilities), volume, what="probabilities")
        if self.wanted.overlay:
            self._overlay(job, volume, index, classes.names)
        write_like(job.file, classes.to_values(index), volume, what="labels")

    def _timed(self, started: float, volume: Volume) -> None:
        self.seconds += time.perf_counter() - started
        self.slices += Stack.of(volume, self.predictor.recipe.prepare.axis).slices.shape[0]

    @contextlib.contextmanager
    def _probabilities(self, volume: Volume, classes: int) -> Iterator[NDArray[np.float32] | None]:
        """Room on the disk for the probabilities of one scan, (S, H, W, C), where they are wanted."""
        if not self.wanted.probabilities:
            yield None
            return
        self.out.mkdir(parents=True, exist_ok=True)
        shape = Stack.of(volume, self.predictor.recipe.prepare.axis).slices.shape
        with scratch_array((*shape, classes), np.float32, self.out) as array:
            yield array

    def _overlay(self, job: _Job, volume: Volume, index: NDArray[np.uint8], names: Sequence[str]) -> None:
        from ssmtl_toolkit.data.picture import overlay

        axis = self.predictor.recipe.prepare.axis
        stack = Stack.of(volume, axis)
        shown = Stack.of(Volume(index, volume.affine, volume.spacing, volume.slice_axis), axis).slices
        overlay(job.beside(".png"), stack.slices, shown, stack.spacing, names)
