"""Prediction: scans in, label maps or images out, on the scans' own grid."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Unpack

import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.config import PredictConfig
from ssmtl_toolkit.config.signatures import takes
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.labelmap import looks_like_labels
from ssmtl_toolkit.data.memory import free_memory
from ssmtl_toolkit.data.postprocess import keep_largest
from ssmtl_toolkit.data.source import naming_scan
from ssmtl_toolkit.data.store import Skipped
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.data.writing import scratch_array, write_like
from ssmtl_toolkit.downstream.call import Call
from ssmtl_toolkit.downstream.jobs import (
    OVERLAY,
    PROBABILITIES,
    Job,
    Jobs,
    check_records,
    check_targets,
    digests,
    list_jobs,
    skip_done,
)
from ssmtl_toolkit.downstream.meaning import Meaning
from ssmtl_toolkit.downstream.model import Predictor
from ssmtl_toolkit.downstream.predicted import Predicted
from ssmtl_toolkit.downstream.records import Records, Wish
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.pretraining.ahead import started
from ssmtl_toolkit.runtime.allocator import keep_memory
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.notebook import default_progress
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import default_cache, installed_readers
from ssmtl_toolkit.sources import Given
from ssmtl_toolkit.specs import DatasetSpec, Spec, spec_classes
from ssmtl_toolkit.text import printable

if TYPE_CHECKING:
    from ssmtl_toolkit.config.typed import PredictOptions

_PART_OF_MEMORY = 0.125  # of what is free: while a scan takes no more, another one may be in memory


@takes(PredictConfig)
def predict(
    source: str | os.PathLike[str],
    scans: Sequence[Given] | Given,
    config: PredictConfig | None = None,
    /,
    *,
    out: str | Path,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    spec: type[Spec] | Sequence[type[Spec]] = (),
    **options: Unpack[PredictOptions],
) -> Predicted:
    """Use fine-tuned models on scans; each prediction is written as NAME.nii.gz below `out`.

    Args:
        source: run folder of a fine-tuning, whose repetitions predict together: the mean of the probabilities (or
            images) of all with pre-training, or else of all from scratch. Or a folder in it, or a model file.
        scans: files, folders, patterns (as for `--data`), datasets by name, or what `from_arrays` returns.
        config: all options as one object, or instead of it …
        options: … any of `PredictConfig`'s options by name.
        out: folder for the predictions; prediction.json in it records which models were used and what the values mean.
        cache: folder for digests of scans; by default the user's cache directory.
        progress: is notified of what happens, to show it; by default the output of a notebook's cell.
        spec: the class (or classes) of a backbone, head or preparation of the model that no plugin registers, such as
            one that a notebook defines.

    Raises:
        UsageError: options, model and scans do not go together; nothing was written.
        DataError: a model cannot be read, or there is no scan.
    """
    progress = progress or default_progress()
    if config is not None and options:
        raise UsageError(f"both a configuration and options ({', '.join(options)}) are given; put them into one")
    config = config or PredictConfig.of(options)
    folder, cache = Path(out), Path(cache) if cache else default_cache()
    with interrupts:
        call = Call.open(Path(source), config, progress, spec_classes(spec))
        given = [scans] if isinstance(scans, str | os.PathLike | DatasetSpec) else scans
        jobs = list_jobs(given, folder, call.wanted, call.takes, cache)
        check_targets(jobs.jobs, config.existing)
        records = Records(folder, call.ensemble.digest, call.options, call.about)
        check_records(jobs.jobs, records, config.existing)
        if config.existing == "skip":
            jobs = skip_done(jobs, records, digests(cache))
        for item in jobs.skipped:
            progress.note(f"skipped: {item.reason}")
        fabric, models = make_fabric(config, progress), call.ensemble.models
        keep_memory(fabric.device)
        predictor = Predictor(call.model_spec, models, fabric, config.batch_size, call.flips)
        return _Prediction(predictor, call, records, digests(cache), progress).run(jobs)


@dataclass(frozen=True)
class _Read:
    """A scan as it was read: what its prediction is recorded as, its voxels, and what is odd about it."""

    wish: Wish
    volume: Volume
    notes: Sequence[str]


class _Prediction:
    """One call of `predict`, scan by scan.

    While the network works on a scan, a thread writes the prediction of the one before; another then reads the next.
    """

    def __init__(
        self, predictor: Predictor, call: Call, records: Records, memo: DigestMemo, progress: Progress
    ) -> None:
        self.predictor, self.call, self.records, self.progress = predictor, call, records, progress
        self.readers, self.memo = installed_readers(in_time=call.model_spec.slicing.in_time), memo
        self.slices, self.seconds = 0, 0.0
        self.written: list[Path] = []
        self.failed: list[Skipped] = []
        self._ahead: Future[_Read] | None = None  # the next scan
        self._writing: tuple[Job, Future[None]] | None = None
        self._alone = False  # whether the scan at hand is too large to have another one in memory

    def run(self, jobs: Jobs) -> Predicted:
        """Predict every scan; one that cannot be used does not stop the others."""
        began = time.perf_counter()
        self.failed = list(jobs.failed)
        for item in self.failed:
            self.progress.note(item.reason)
        self.progress.preparing(len(jobs.jobs))
        with self.records.kept([job.name for job in jobs.jobs]):
            self._one_after_another(jobs.jobs)
        self.progress.done()
        call = self.call
        return Predicted(
            self.records.out,
            model=call.ensemble.source,
            models=tuple(call.ensemble.members),
            digest=call.ensemble.digest,
            head=str(call.model_spec.head),
            classes=call.model_spec.classes,
            written=tuple(self.written),
            failed=tuple(self.failed),
            skipped=tuple(jobs.skipped),
            slices=self.slices,
            seconds=time.perf_counter() - began,
            seconds_of_network=self.seconds,
        )

    def _one_after_another(self, jobs: Sequence[Job]) -> None:
        """Predict the scans; what is said, recorded and raised comes in their order, whatever threads do meanwhile."""
        try:
            for job, following in itertools.zip_longest(jobs, jobs[1:]):
                if interrupts.number:
                    self._settle()
                self._check(len(jobs))
                notes, write = self._predicted(job, following)
                asked_to_stop = interrupts.number  # while the network worked: what it has made is written
                self._settle()
                if not asked_to_stop:
                    self._check(len(jobs))
                for note in notes:
                    self.progress.note(f"{printable(job.scan.path)}: {note}")
                self._writing = job, started(write, "ssmtl-write", daemon=False)
                del write  # which holds the scan
                if self._alone:
                    self._settle()
        finally:
            self._settle()

    def _check(self, total: int) -> None:
        interrupts.check(f"{len(self.written)} of {total} scans are done; continue with --existing skip")

    def _settle(self) -> None:
        """Wait until the last prediction is written, and say so, or why it could not be made."""
        if self._writing is None:
            return
        job, writing = self._writing
        try:
            writing.result()
        except DataError as error:
            self.records.gave_up(job.name)
            self.failed.append(Skipped(job.scan.name, str(error)))
            self.progress.note(str(error))
        self._writing = None
        self.progress.prepared(job.scan.name)

    def _predicted(self, job: Job, following: Job | None) -> tuple[Sequence[str], Callable[[], None]]:
        """Predict a scan while the next is read. Returns what is odd about it, and what writes the prediction."""
        notes: Sequence[str] = ()
        try:
            ahead, self._ahead = self._ahead, None
            scan = ahead.result() if ahead else self._read(job)
            notes = scan.notes
            self._alone = self._scratch or scan.volume.array.nbytes > _PART_OF_MEMORY * free_memory()
            if following and not self._alone:
                writing = [self._writing[1]] if self._writing else []
                self._ahead = started(lambda: self._read(following, writing), "ssmtl-read", daemon=True)
            with naming_scan(job.scan.path):
                return notes, functools.partial(self._write, job, scan.wish, self._of_network(job, scan.volume))
        except DataError as error:
            return notes, functools.partial(_raise, error)

    def _read(self, job: Job, after: Sequence[Future[None]] = ()) -> _Read:
        """Read a scan, `after` something else is done: so no more than two are in memory."""
        wait(after)
        slicing = self.call.model_spec.slicing
        wish = job.wish(self.memo)
        volume = self.readers.read_scan(job.scan, slicing.volume)
        labels = looks_like_labels(volume)
        like_labels = f"looks like a label map: {labels}, not like a scan" if labels else ""
        unlike = "" if slicing.prepare else self.call.ensemble.usage.unlike(self._grid(volume).spacing[0])
        return _Read(wish, volume, list(filter(None, [*volume.notes, like_labels, unlike])))

    def _write(self, job: Job, wish: Wish, files: Callable[[], None]) -> None:
        """Write the files of a prediction, and record it."""
        with naming_scan(job.scan.path):
            files()
        self.records.wrote(wish)
        self.written.append(job.file)

    def _of_network(self, job: Job, volume: Volume) -> Callable[[], None]:
        """Let the network predict a scan. Returns what writes the files."""
        classes = self.call.model_spec.classes
        return self._image(job, volume) if classes is None else self._labels(job, volume, classes)

    def _image(self, job: Job, volume: Volume) -> Callable[[], None]:
        began = time.perf_counter()
        image = self.predictor.image(volume)
        self._timed(began, volume)

        def write() -> None:
            self.records.begin(job.name)
            write_like(job.file, image, volume, what="image")

        return write

    def _labels(self, job: Job, volume: Volume, classes: Classes) -> Callable[[], None]:
        with contextlib.ExitStack() as stack:
            probabilities = stack.enter_context(self._probabilities(volume, Meaning.of(classes).maps))
            began = time.perf_counter()
            index = self.predictor.labels(volume, probabilities, self.call.config.smooth)
            self._timed(began, volume)
            scratch = stack.pop_all()

        def write() -> None:
            with scratch:
                kept = self._largest(index, classes)
                self.records.begin(job.name)
                if job.wanted.probabilities:
                    assert probabilities is not None
                    stack = self._grid(volume)
                    write_like(job.beside(PROBABILITIES), stack.back(probabilities), volume, what="probabilities")
            if self.call.wanted.overlay:
                self._overlay(job, volume, kept, classes)
            write_like(job.file, classes.to_values(kept), volume, what="labels")

        return write

    def _largest(self, index: NDArray[np.uint8], classes: Classes) -> NDArray[np.uint8]:
        """Of some classes the largest part alone, if that is wanted."""
        if not self.call.largest:
            return index
        chosen = [classes.names.index(name) for name in self.call.largest]
        owned = [np.flatnonzero(members).tolist() for members in classes.members[chosen]]
        return keep_largest(index, owned, list(classes.without[chosen]))

    def _timed(self, began: float, volume: Volume) -> None:
        self.seconds += time.perf_counter() - began
        self.slices += self._grid(volume).grid[0]

    def _grid(self, volume: Volume) -> Stack:
        """How a scan is cut, without its voxels."""
        return Stack.of(volume.without_voxels().empty(), self.call.model_spec.slicing.axis)

    @property
    def _scratch(self) -> bool:
        """Whether probabilities of a whole scan are needed, which lie on the disk: of one scan at a time."""
        return bool(self.call.config.probabilities or self.call.config.smooth)

    @contextlib.contextmanager
    def _probabilities(self, volume: Volume, classes: int) -> Iterator[NDArray[np.float32] | None]:
        """Room on the disk for the probabilities of one scan, (S, H, W, classes), if they are needed."""
        if not self._scratch:
            yield None
            return
        self.records.out.mkdir(parents=True, exist_ok=True)
        shape = self._grid(volume).grid
        with scratch_array((*shape, classes), np.float32, self.records.out) as array:
            yield array

    def _overlay(self, job: Job, volume: Volume, index: NDArray[np.uint8], classes: Classes) -> None:
        from ssmtl_toolkit.data.overlay import overlay

        stack = Stack.of(volume, self.call.model_spec.slicing.axis)
        overlay(job.beside(OVERLAY), stack.slices[:, 0], stack.cut(index), stack.spacing, classes)


def _raise(error: DataError) -> NoReturn:
    raise error
