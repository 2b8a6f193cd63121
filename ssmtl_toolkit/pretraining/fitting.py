"""Options of tasks that are left to the data, such as `t=auto`: set once, when the slices are known."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ssmtl_toolkit.config import ResolvedRun, RunConfig
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.inspection import alike
from ssmtl_toolkit.inspection.distance import ENOUGH, suitable_distances
from ssmtl_toolkit.pretraining.pairs import Stacks
from ssmtl_toolkit.runtime.folder import CONFIG
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import TaskSpec, named

_MOST_SCANS = 64  # whose slices are compared, spread over all


class StoredSlices:
    """The slices of a store, as tasks may ask about them (`specs.Slices`)."""

    def __init__(self, store: SliceStore) -> None:
        self._store, self._pairs = store, Stacks(store)

    @cached_property
    def suitable(self) -> tuple[list[int | str], str]:
        """The distances that suit, and why the next one does not."""
        extents = self._store.extents
        compared = {round(i) for i in np.linspace(0, len(extents) - 1, min(_MOST_SCANS, len(extents)))}
        stacks = []
        for i, extent in enumerate(extents):
            products = None
            if i in compared:
                rows = torch.arange(extent.start, extent.start + extent.count)
                slices = self._store.gather(rows, torch.device("cpu")).numpy()
                products = alike.products_of(slices, extent.spacing, extent.frames)
            stacks.append(alike.StackOfSlices(extent.length, extent.spacing, products, len(extent.sequences)))
        return suitable_distances(alike.Stacks(stacks, self._store.unit))

    def distance(self, task: TaskSpec, option: str) -> int | str:
        """The largest suitable distance at which this task finds enough pairs, else the smallest."""
        suitable, _ = self.suitable
        enough = [t for t in suitable if self._pairs.share(task.model_copy(update={option: t})) >= ENOUGH]
        return enough[-1] if enough else suitable[0]


def fit_tasks(config: ResolvedRun, store: SliceStore, progress: Progress) -> ResolvedRun:
    """Set the open options of all tasks by what suits these slices, and report them.

    Raises:
        UsageError: two tasks have become one.
    """
    slices, tasks = StoredSlices(store), []
    for task in config.tasks:
        with foreign(f"{named(task)}, asked which options suit the slices,"):
            tasks.append(task.fitted(slices))
        changed = [f"{name}={value}" for name, value in tasks[-1] if value != getattr(task, name)]
        if changed:
            why = f": {slices.suitable[1]}" if task.open_options else ""
            progress.say(f"{'auto':<10}{task.name}: {', '.join(changed)}{why}")
    if tuple(tasks) == config.tasks:
        return config
    fitted = config.model_copy(update={"tasks": tuple(tasks)})
    fitted.check()
    return fitted


def as_begun(config: ResolvedRun, folder: Path) -> ResolvedRun:
    """Take what an earlier start in this folder has measured for options that are left to the data."""
    begun = RunConfig.of(RunConfig.read(folder / CONFIG), str(folder / CONFIG))
    if config.channels_last == "auto":
        config = config.model_copy(update={"channels_last": begun.channels_last})
    if config.normalise != "data" and not any(task.open_options for task in config.tasks):
        return config
    before = begun.resolve()
    update: dict[str, object] = {"normalise": before.normalise} if config.normalise == "data" else {}
    if len(before.tasks) == len(config.tasks):
        update["tasks"] = tuple(_filled(*pair) for pair in zip(config.tasks, before.tasks, strict=True))
    return config.model_copy(update=update)


def _filled(task: TaskSpec, before: TaskSpec) -> TaskSpec:
    if type(task) is not type(before):
        return task
    return task.model_copy(update={name: getattr(before, name) for name in task.open_options})
