"""Unlabelled slices in a fine-tuning: which scans, which batches, and what is learned from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import with_patients
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.semi import SemiOutput, SemiStep
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, Step, TaskOutput
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.pretraining.pretrain import make_plan
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans, open_store
from ssmtl_toolkit.specs import Scan, TaskSpec
from ssmtl_toolkit.text import counted


@dataclass(frozen=True)
class Unlabelled:
    """The slices that `--semi` learns from, and the pretext tasks that it wants.

    Attributes:
        held: how many scans were left out, because they are of validation or test patients.
        test_seen: how many scans of validation or test patients are among them (transductive).
    """

    store: SliceStore
    plan: Plan
    tasks: Sequence[TaskSpec]
    held: int
    test_seen: int

    def loader(self, config: ResolvedFinetune, seed: int, device: torch.device) -> Loader:
        """Batches of slices in turn, as many as labelled ones."""
        return Loader(self.store, Sampler(self.plan, config.batch_size, seed), device)


def gather_unlabelled(
    config: ResolvedFinetune, slicing: Slicing, away: Sequence[Scan], cache: Path, progress: Progress
) -> Unlabelled | None:
    """Find and prepare the scans for `--semi`; None without it. `away` are those of validation and test.

    Raises:
        DataError: nothing is left to learn from.
    """
    if config.semi is None:
        return None
    dataset = config.unlabelled or config.data
    scans, notes = with_patients([s for s in list_scans(dataset, cache) if not s.unfit], config.patient)
    for note in notes if config.unlabelled else ():
        progress.note(note)
    apart = _of_others(scans, away, cache)
    chosen = scans if config.transductive else apart
    if not chosen:
        raise DataError(f"{dataset}: all of its {counted(len(scans), 'scan')} are of validation or test patients")
    held, seen = len(scans) - len(chosen), len(chosen) - len(apart)
    if seen:
        progress.note(
            f"{counted(seen, 'scan')} of validation or test patients are learned from without labels (--transductive): "
            f"the scores speak for these patients only"
        )
    store = open_store(chosen, slicing, cache, progress, skip_bad=config.skip_bad)
    without = f", without {held} of validation and test patients" if held else ""
    progress.say(f"unlabelled  {counted(len(store.scans), 'scan')}, {counted(len(store.slices), 'slice')}{without}")
    tasks = config.pretext_tasks
    plan = make_plan(store, tasks, progress) if tasks else Plan(store.extents, [{"": {}} for _ in store.extents])
    return Unlabelled(store, plan, tasks, held, seen)


def _of_others(scans: Sequence[Scan], away: Sequence[Scan], cache: Path) -> list[Scan]:
    """The scans that are neither of these patients nor, by their contents, these scans under other names."""
    readers, memo = installed_readers(), DigestMemo(cache / "digests.json")
    patients = {scan.patient for scan in away}
    contents = {readers.digest(path, memo) for scan in away for path in scan.paths}
    kept = []
    for scan in scans:
        try:
            same = any(readers.digest(path, memo) in contents for path in scan.paths)
        except DataError:  # preparing it says what is wrong
            same = False
        if scan.patient not in patients and not same:
            kept.append(scan)
    memo.save()
    return kept


class Learner(nn.Module):
    """The method of `--semi` on one network, with the modules of its pretext tasks: all that is trained beside it."""

    def __init__(
        self,
        config: ResolvedFinetune,
        unlabelled: Unlabelled,
        model: Downstream,
        fabric: Fabric,
        seed: int,
        augmenter: Augmenter,
    ) -> None:
        super().__init__()
        assert config.semi is not None
        self._spec, self._fabric, self._augmenter = config.semi, fabric, augmenter
        self._model = [model]  # in a list: its weights are not ours
        with foreign(f"building semi {str(config.semi)!r}"):
            self.method = config.semi.build()
        self._labels = [str(task) for task in unlabelled.tasks]
        self._weights = [task.weight for task in unlabelled.tasks]
        self.tasks = nn.ModuleList()
        for task in unlabelled.tasks:
            with foreign(f"building task {str(task)!r}"):
                self.tasks.append(task.build(model.backbone))
        self._load = unlabelled.loader(config, seed, fabric.device)
        self._first, self._steps = round(self._spec.start * config.steps), config.steps
        self.to(fabric.device)

    def forward(self, step: int, teach: Callable[[Tensor], Tensor]) -> SemiOutput | None:
        """The loss on the unlabelled slices of the update after `step` others; None: they are not used yet."""
        if step < self._first:
            return None
        batch = self._load(step - self._first)
        with foreign(f"semi {str(self._spec)!r}, step {step + 1},"), self._fabric.autocast():
            output: SemiOutput = self.method(self._step(batch, step, teach))
            if not isinstance(output, SemiOutput):
                raise SsmtlError(f"its forward gives {type(output).__name__}; give SemiOutput(loss, pseudo)")
            return output

    def _step(self, batch: Batch, step: int, teach: Callable[[Tensor], Tensor]) -> SemiStep:
        (model,) = self._model
        return SemiStep(
            batch=batch,
            augmenter=self._augmenter,
            progress=(step - self._first) / max(self._steps - 1 - self._first, 1),
            backbone=model.backbone,
            head=model.head,
            loss=model.head.loss,
            teach=teach,
            tasks=lambda: self._outputs(batch),
        )

    def _outputs(self, batch: Batch) -> Mapping[str, TaskOutput]:
        """The tasks' outputs, each loss times its task's weight."""
        (model,) = self._model
        encode = SharedEncoder(model.backbone)
        outputs = {}
        for label, weight, task in zip(self._labels, self._weights, self.tasks, strict=True):
            output: TaskOutput = task(Step(batch, encode, batch.companions.get(label, {})))
            outputs[label] = output._replace(loss=weight * output.loss)
        return outputs
