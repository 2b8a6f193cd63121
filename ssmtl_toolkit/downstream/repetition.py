"""One repetition of a fine-tuning: a network from fresh or pre-trained weights, trained, saved and tested."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.files import write_json
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.data.split import Slices
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.downstream import drawing
from ssmtl_toolkit.downstream.examples import Examples, turns_of
from ssmtl_toolkit.downstream.gather import Material
from ssmtl_toolkit.downstream.keeping import RepetitionKeeper
from ssmtl_toolkit.downstream.loop import Loop
from ssmtl_toolkit.downstream.model import Downstream, ModelSpec, Predictor
from ssmtl_toolkit.downstream.targets import Checking
from ssmtl_toolkit.downstream.unlabelled import Unlabelled
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.reporting.cases import Cases
from ssmtl_toolkit.reporting.ending import report_wanted
from ssmtl_toolkit.runtime import checkpoint, weights
from ssmtl_toolkit.runtime.device import choose_precision, seed_all
from ssmtl_toolkit.runtime.folder import CASES, CHECKPOINTS, METRICS, MODEL, SCORES, TRANSFER
from ssmtl_toolkit.runtime.layout import choose_layout
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.text import printable, shortened

_KEYS = ("metrics", "mean", "scans", "rule", "training")  # of the scores of a repetition
_SHOWN = 5  # lines about metrics that failed

Arm = Literal["pretrained", "scratch"]


@dataclass(frozen=True)
class Repetitions:
    """What all repetitions of one fine-tuning share, and how each is done.

    Attributes:
        model_spec: the network.
        pretrained: what the arm `pretrained` starts from.
        truth: the targets of all slices in the store; None: the slices themselves.
        unlabelled: what --semi learns from.
        metrics: what test scans are scored by.
    """

    config: ResolvedFinetune
    folder: Path
    model_spec: ModelSpec
    pretrained: Pretrained | None
    material: Material
    store: SliceStore
    truth: Tensor | None
    unlabelled: Unlabelled | None
    fabric: Fabric
    metrics: tuple[MetricSpec, ...]
    progress: Progress

    @property
    def seeds(self) -> list[int]:
        """The seed of every repetition."""
        return [self.config.seed + i for i in range(self.config.seeds)]

    @property
    def arms(self) -> list[Arm]:
        """What is trained for each seed, in order."""
        if self.pretrained is None:
            return ["scratch"]
        return ["pretrained", "scratch"] if self.config.baseline == "scratch" else ["pretrained"]

    def run(self) -> None:
        """Do what is not finished yet."""
        for seed, slices in zip(self.seeds, self.material.slices, strict=True):
            number = sum(map(len, slices.values()))
            for name in self.material.targets.absent(slices, self.material.contents):
                self.progress.note(f"class {name!r} does not appear in the {number} training slices of seed {seed}")
            examples = self._examples(slices)
            for arm in self.arms:
                self._repetition(arm, seed, slices, examples)
        self._check_transfer()

    def _check_transfer(self) -> None:
        """Write transfer.json again if it was damaged after all was trained."""
        if self.pretrained and not read_result(self.folder / TRANSFER, "sha256"):
            self.progress.note(f"{printable(self.folder / TRANSFER)}: is damaged or missing; it is written again")
            with torch.random.fork_rng(devices=[]):
                report = self.pretrained.load_into(self.model_spec.build().backbone, self.config.min_transfer)
            write_json(self.folder / TRANSFER, report.to_json())

    def with_layout(self) -> Repetitions:
        """Those in the memory layout of images that is the faster one for these networks here."""
        config = self.config

        def trial() -> tuple[Downstream, Callable[[Downstream], Tensor]]:
            examples = self._examples(self.material.slices[0])
            rows = examples.drawn(0, config.batch_size, config.seed)
            image, target = Augmenter(config.augment).labelled(*examples.batch(rows, self.fabric.device))
            return self.model_spec.build(), lambda model: model.loss(model(model.head.degrade(image)), target)

        steps = config.steps * len(self.seeds) * len(self.arms)
        layout = choose_layout(config, self.fabric, steps, trial, self.progress)
        return replace(self, config=config.model_copy(update={"channels_last": layout}))

    def _examples(self, slices: Slices) -> Examples:
        rows = drawing.store_rows(self.store, slices)
        return Examples(self.store, rows, self.truth, self._turns(slices))

    def _turns(self, slices: Slices) -> NDArray[np.int64] | None:
        """How often each training slice is seen."""
        if self.config.sampling == "even":
            return None
        contents = self.material.contents
        return turns_of(np.concatenate([contents[name].classes[list(rows)] for name, rows in slices.items()]))

    def _repetition(self, arm: Arm, seed: int, slices: Slices, examples: Examples) -> None:
        """Train and test one network, unless that is done."""
        folder = self.folder / f"{arm}-{seed}"
        keeper = self._keeper(folder / CHECKPOINTS, arm, seed, examples)
        if not is_finished(folder, self.progress):
            folder.mkdir(exist_ok=True)
            started = time.perf_counter()
            model = self._start(arm, seed)
            self.progress.part(folder.name)
            self.progress.say(f"{arm}, seed {seed}: {len(examples.rows)} slices")
            validate, config = self._validator(model, examples), self.config
            parts = self.pretrained.loaded if self.pretrained and arm == "pretrained" else ()
            classes, stream = self.model_spec.classes, step_seed(seed, Stream.TRAINING)
            names = classes.names if classes else ()
            loop = Loop(model, examples, config, stream, self.fabric, parts, self.unlabelled, names)
            trained = loop.run(folder / METRICS, self.progress, validate, keeper)
            material, predictor = self.material, Predictor(self.model_spec, [model], self.fabric, config.batch_size)
            judged = material.targets.judge_largest(predictor, material.validation)
            usage, about = self.model_spec.usage(self.store.cuts), self._about(arm, seed, slices)
            if material.validation:
                about["largest_component"] = [name for name, one in judged.items() if one.helps]
            self.model_spec.save(folder / MODEL, model, about, usage)
            wanted = report_wanted(self.config.report) and seed == self.seeds[0]
            cases = Cases(self.metrics, self.progress) if wanted else None
            scores = material.targets.assess(predictor, material.test, self.metrics, cases)
            if cases is not None:
                cases.write(folder / CASES)
            for line in shortened(scores.get("not_scored", ()), _SHOWN, f", all in {folder / SCORES}"):
                self.progress.note(line)
            training = {**trained, "seconds": time.perf_counter() - started}
            metrics = [metric.full() for metric in self.metrics]
            more = {"largest_component": {name: one.to_json() for name, one in judged.items()}} if judged else {}
            write_json(folder / SCORES, {"metrics": metrics, **scores, **more, "training": training})
        keeper.finish()

    def _start(self, arm: Arm, seed: int) -> Downstream:
        """Make the network with its first weights."""
        seed_all(step_seed(seed, Stream.WEIGHTS), self.fabric.device)
        model = self.model_spec.build()
        if arm == "pretrained" and self.pretrained is not None:
            report = self.pretrained.load_into(model.backbone, self.config.min_transfer)
            write_json(self.folder / TRANSFER, report.to_json())
            classes = self.model_spec.classes and self.model_spec.classes.to_json()
            with_head = self.pretrained.load_head(self.model_spec.head.full(), classes, model.head)
            if seed == self.seeds[0]:
                more = ["          head: loaded too, it is for the same classes"] if with_head else []
                for line in [*report.lines(), *more]:
                    self.progress.say(line)
        return model

    def _about(self, arm: Arm, seed: int, slices: Slices) -> dict[str, Any]:
        """What model.safetensors records of its training."""
        start = self.pretrained if arm == "pretrained" else None
        augment = [spec.full() for spec in self.config.augment]
        about: dict[str, Any] = {"arm": arm, "seed": seed, "augment": augment, "pretraining": start and start.about}
        known = frozenset[str]() if start is None else start.learned
        if known is not None:
            used = [*slices, *(scan.name for scan in self.material.validation)]
            about["learned"] = sorted(known.union(one[:16] for name in used for one in self.material.digests[name]))
        if self.unlabelled and self.config.semi:
            origins = [registry().origin(spec) for spec in (self.config.semi, *self.config.pretext_tasks)]
            about |= {"semi": origins, "unlabelled": {**self.unlabelled.to_json(), "digests": self.unlabelled.digests}}
        return about

    def _keeper(self, folder: Path, arm: Arm, seed: int, examples: Examples) -> RepetitionKeeper:
        start = checkpoint.digest_of_tensors(self.pretrained.tensors) if self.pretrained and arm != "scratch" else ""
        identity = {"arm": arm, "seed": seed, "pretraining": start}
        identity |= {"unlabelled": self.unlabelled.store.fingerprint} if self.unlabelled else {}
        machine = {"device": self.fabric.device.type, "precision": choose_precision(self.config, Progress())}
        return RepetitionKeeper(folder, self.config, identity, machine, examples, self.progress)

    def _validator(self, model: Downstream, examples: Examples) -> Callable[[], float] | None:
        """The score to stop early by, if there are validation scans."""
        material = self.material
        if not material.validation:
            return None
        slices = {scan.name: material.contents[scan.name].slices("any") for scan in material.validation}
        rows = drawing.store_rows(examples.store, slices)
        check = Checking(self.config.batch_size, self.fabric, self.config.seed)
        return material.targets.validator(model, examples, rows, check)


def is_finished(folder: Path, progress: Progress) -> bool:
    """Whether a repetition is done; one whose files are damaged, which is noted, is done again."""
    model, scores = folder / MODEL, folder / SCORES
    if not (scores.is_file() and model.is_file()):
        return False
    if not read_result(scores, *_KEYS):
        progress.note(f"{printable(scores)}: is damaged; {folder.name} is trained again")
        return False
    try:
        weights.read(model, f"{folder.name} is trained again")
    except DataError as error:
        progress.note(str(error))
        return False
    if problem := MetricLog(folder / METRICS).problem(read_result(scores)["training"].get("steps", 0)):
        progress.note(problem)
    return True
