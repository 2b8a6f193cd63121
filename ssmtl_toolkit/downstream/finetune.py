"""Fine-tuning from options to a report: labelled scans, split, repetitions with and without pre-training, test."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from ssmtl_toolkit.config import FinetuneConfig, ResolvedFinetune, Role
from ssmtl_toolkit.data import split as splitting
from ssmtl_toolkit.data.files import DigestMemo, digest, replacing, write_json
from ssmtl_toolkit.data.labels import Classes
from ssmtl_toolkit.data.sampling import step_seed
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import Slices, Split
from ssmtl_toolkit.data.store import LeftOut
from ssmtl_toolkit.downstream import labelled, targets
from ssmtl_toolkit.downstream.keeping import RepetitionKeeper
from ssmtl_toolkit.downstream.labelled import LabelledScans, Shown
from ssmtl_toolkit.downstream.loop import Examples, tune
from ssmtl_toolkit.downstream.model import Downstream, Predictor, Recipe
from ssmtl_toolkit.downstream.transfer import Pretrained
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation import scores, statistics
from ssmtl_toolkit.evaluation.metrics import metrics_of
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.device import choose_precision, make_fabric, seed_all
from ssmtl_toolkit.runtime.folder import (
    BACKBONE,
    CHECKPOINTS,
    FINETUNE,
    METRICS,
    MODEL,
    RECEIPT,
    SCORES,
    SPLIT,
    SUMMARY,
    own,
)
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import default_cache, installed_readers, list_scans, open_store
from ssmtl_toolkit.specs import BackboneSpec, Scan, check_needs
from ssmtl_toolkit.text import printable


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning: its folder, and what `ssmtl finetune --json` prints."""

    folder: Path
    summary: dict[str, Any]

    def __fspath__(self) -> str:
        """The folder, so that `predict` takes this object."""
        return str(self.folder)


def finetune(
    source: str | os.PathLike[str] | None = None,
    config: FinetuneConfig | None = None,
    /,
    *,
    out: str | Path,
    cache: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Finetuned:
    """Fine-tune a pre-trained backbone with a head on few labelled slices, and test it on other patients.

    Args:
        source: run folder or backbone file of a pre-training; None: from scratch.
        config: all options as one object, or instead of it …
        options: … any of `FinetuneConfig`'s options by name.
        out: the run folder; it must be new or empty, or hold the fine-tuning to resume.
        cache: folder for prepared slices; by default the user's cache directory.
        resume: keep the repetitions in `out` that are finished, and go on with the others.
        progress: hears what happens.

    Raises:
        UsageError: the options are wrong or do not go together, or too little of the pre-training can be loaded.
        DataError: scans, labels, split or weights cannot be used.
        SsmtlError: the run failed.
    """
    progress = progress or Progress()
    if source is not None:
        options["source"] = Path(source)
    if config is not None and options:
        raise UsageError(f"both a configuration and options ({', '.join(options)}) are given; put them into one")
    resolved = (config or FinetuneConfig.of(options)).resolve()
    folder, cache = Path(out), Path(cache) if cache else default_cache()
    with interrupts, own(folder, resume, FINETUNE):
        work = _Finetuning(resolved, folder, cache, resume, progress)
        if resume:
            _check_same(work.config, folder)
        return Finetuned(folder, work.run())


def _check_same(config: ResolvedFinetune, folder: Path) -> None:
    """Refuse to resume with options that would make other repetitions."""
    before = FinetuneConfig.of(FinetuneConfig.read(folder / FINETUNE), str(folder / FINETUNE))
    changed = config.differences(before) + _other_files(config, before, folder)
    if changed:
        raise UsageError(f"{folder}: cannot be resumed with other options: {'; '.join(changed)}; start a new run")


def _other_files(config: FinetuneConfig, before: FinetuneConfig, folder: Path) -> list[str]:
    """Name those of source and split that do not hold what they held when the run began, wherever they lie now."""
    same = set()
    source = config.source and (config.source / BACKBONE if config.source.is_dir() else config.source)
    if source and source.is_file() and (folder / RECEIPT).is_file():
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        same |= {"source"} if receipt["sha256"] == digest(source) else set()
    if config.split and config.split.is_file() and (folder / SPLIT).is_file():
        ours, theirs = Split.read(config.split), Split.read(folder / SPLIT)
        same |= {"split"} if all(getattr(ours, part) == getattr(theirs, part) for part in splitting.PARTS) else set()
    now, then = config.of_roles(Role.PLACE), before.of_roles(Role.PLACE)
    moved = [name for name in ("source", "split") if now[name] != then[name]]
    return [f"{name} is {now[name]!r}, was {then[name]!r}" for name in moved if name not in same]


class _Finetuning:
    """All repetitions of one fine-tuning."""

    def __init__(self, config: ResolvedFinetune, folder: Path, cache: Path, resume: bool, progress: Progress) -> None:
        self.config, self.folder, self.cache, self.progress = config, folder, cache, progress
        self.head, self.dataset = config.head, config.data
        self.pretrained = Pretrained.open(config.source) if config.source else None
        self.backbone = self._backbone()
        check_needs(self.backbone, [self.head])
        self.slicing = _slicing(config, self.pretrained)
        self.config = config = config.model_copy(update={"backbone": self.backbone, **dict(self.slicing)})
        self.readers = installed_readers()
        self.resume = resume
        self.left_out: list[LeftOut] = []
        self.labels: LabelledScans | None = None
        self.shown: dict[str, Shown] = {}
        self.test_seen: int | None = None  # None: the pre-training does not say which scans it has seen

    def _backbone(self) -> BackboneSpec:
        if self.config.backbone is not None:
            return self.config.backbone
        if self.pretrained is None:
            return registry().resolve(BackboneSpec, "unet")
        spec = self.pretrained.spec()
        if spec is None:
            raise UsageError(
                f"{self.pretrained.file}: does not say what network its weights are of; give it by --backbone"
            )
        return spec

    @property
    def arms(self) -> list[str]:
        """What is trained for each seed, in order."""
        if self.pretrained is None:
            return ["scratch"]
        return ["pretrained", *(["scratch"] if self.config.baseline == "scratch" else [])]

    @property
    def seeds(self) -> list[int]:
        return [self.config.seed + i for i in range(self.config.seeds)]

    def run(self) -> dict[str, Any]:
        """Do what is missing, from the first check to summary.json."""
        surface = self._surface()
        fabric = make_fabric(self.config, self.progress)
        scans = self._scans()
        split, scans = self._split(scans)
        drawn = [labelled.draw_scans(self.config, split.of(scans, "train"), seed) for seed in self.seeds]
        if split.slices:
            known = {scan.name: scan for scan in split.of(scans, "train")}
            given = [split.slices[i % len(split.slices)] for i in range(len(self.seeds))]
            if unknown := [name for names in given for name in names if name not in known]:
                raise DataError(f"its slices are of {unknown[0]!r}, which is no training scan here; check --split")
            drawn = [[known[name] for name in names] for names in given]
        elif (self.config.train_scans or 0) > (there := len(split.of(scans, "train"))):
            self.progress.note(f"--train-scans {self.config.train_scans}: there are {there}, all of them are taken")
        training = _once([scan for repetition in drawn for scan in repetition])
        validation, test = split.of(scans, "validation"), split.of(scans, "test")
        self._check(training, validation, test)
        slices = self._slices(split, drawn)
        self._write(Split(split.train, split.validation, split.test, split.pattern, tuple(slices)))
        training, validation, test = (
            [scan for scan in part if scan.name in self.shown] for part in (training, validation, test)
        )
        if not test:
            raise DataError("none of the test scans can be used; mend them, or choose others by --split")
        used = _once([*training, *validation])
        store = open_store(used, self.slicing, self.cache, self.progress, skip_bad=False, label_maps="note")
        targets = None if self.labels is None else self.labels.targets([*training, *validation], store)
        for seed, chosen in zip(self.seeds, slices, strict=True):
            self._warn_absent(seed, chosen)
            for arm in self.arms:
                self._repetition(
                    arm,
                    seed,
                    Examples(store, labelled.store_rows(store, chosen), targets),
                    test,
                    validation,
                    fabric,
                    surface,
                )
        summary = self._summary(slices, validation, test, surface)
        write_json(self.folder / SUMMARY, summary)
        self.progress.done()
        return summary

    def _surface(self) -> bool:
        if self.config.surface:
            scores.check_monai("HD95, surface Dice and SSIM")
        return scores.has_monai() if self.config.surface is None else self.config.surface

    def _scans(self) -> list[Scan]:
        """The scans that can be used: with labels, where the head learns from labels."""
        found = list_scans(self.dataset, self.cache)
        self.left_out += [LeftOut(scan.name, scan.unfit) for scan in found if scan.unfit]
        fit = [scan for scan in found if not scan.unfit]
        scans = [scan for scan in fit if scan.label] if self.head.output == "labels" else fit
        if not scans:
            skipped = f"; {len(self.left_out)} skipped, such as {self.left_out[0].reason}" if self.left_out else ""
            raise DataError(
                f"{self.dataset}: none of its {len(fit)} scans has a label map; expected images/ and labels/ with the "
                f"same names, a dataset.json, or a manifest (.csv, .toml) with the columns image and label{skipped}"
            )
        if len(scans) < len(fit):
            bare = [printable(scan.name) for scan in fit if not scan.label]
            listed = f"{', '.join(bare[:3])}{' …' * (len(bare) > 3)}"
            self.progress.note(f"{len(bare)} of {len(fit)} scans have no label map and are not used: {listed}")
        for item in self.left_out[:10]:
            self.progress.note(f"left out: {item.reason}")
        return scans

    def _split(self, scans: list[Scan]) -> tuple[Split, list[Scan]]:
        """The split that is given or was written, or a new one; and the scans with their patients."""
        config, written = self.config, self.folder / SPLIT
        file = written if self.resume and written.is_file() else config.split
        given = Split.read(file) if file else None
        pattern = config.patient if config.patient is not None or given is None else given.pattern
        scans, notes = splitting.with_patients(scans, pattern)
        for note in notes:
            self.progress.note(note)
        if given is None or file is None:
            return splitting.make(scans, config.test_scans, config.validation_scans, config.seed, pattern), scans
        splitting.check_known(given, scans, file)
        if not given.test or not (given.train or given.slices):
            raise DataError(f"{printable(file)}: names no {'train' if given.test else 'test'} patients; add them")
        if file == written and len(given.slices) < len(self.seeds):  # repetitions were added
            slices = Split.read(config.split).slices if config.split else ()
            given = replace(given, slices=slices)
        return given, scans

    def _check(self, training: Sequence[Scan], validation: Sequence[Scan], test: Sequence[Scan]) -> None:
        """Read every label map that will be used, before anything is trained."""
        used = _once([*training, *validation, *test])
        self._refuse_copies(used, test)
        self.progress.preparing(len(used))
        if self.head.output == "image":
            self._drop(labelled.try_each(used, self._look_at_image, self.config.skip_bad, "scans"))
            return
        known, ignore = dict(self.dataset.classes()), self.config.ignore_value
        if known or self.config.classes:
            classes = Classes.parse(self.config.classes or "", known, ignore)
        else:
            classes, note = labelled.find_classes(used, self.readers, ignore)
            self.progress.note(note)
        refuse = not self.config.classes or bool(known)
        self.labels = LabelledScans(self.config, self.slicing, self.readers, classes, refuse)
        self._drop(labelled.try_each(used, self._look_at_labels, self.config.skip_bad))
        for note in self.labels.notes[:10]:
            self.progress.note(note)
        if len(self.labels.notes) > 10:
            self.progress.note(f"… and {len(self.labels.notes) - 10} more such notes, all in {SUMMARY}")

    def _drop(self, bad: Sequence[LeftOut]) -> None:
        self.left_out += bad
        for item in bad[:10]:
            self.progress.note(f"left out: {item.reason}")

    def _look_at_labels(self, scan: Scan) -> None:
        assert self.labels is not None
        self.shown[scan.name] = self.labels.look(scan)
        self._looked(scan)

    def _look_at_image(self, scan: Scan) -> None:
        from ssmtl_toolkit.data.volume import Stack

        stack = Stack.of(self.readers.read(scan.path, self.slicing.volume), self.slicing.axis)
        flat = stack.slices.reshape(len(stack.slices), -1)
        varied = flat.min(axis=1) < flat.max(axis=1)
        self.shown[scan.name] = Shown(np.ones(len(flat), bool), varied[:, None])
        self._looked(scan)

    def _looked(self, scan: Scan) -> None:
        self.progress.prepared(scan.name)
        interrupts.check("nothing was trained yet")

    def _refuse_copies(self, scans: Sequence[Scan], test: Sequence[Scan]) -> None:
        """Refuse a scan that is there under two names, and count the test scans that the pre-training has seen."""
        memo = DigestMemo(self.cache / "digests.json")
        known: dict[str, Scan] = {}
        for scan in scans:
            found = self.readers.digest(scan.path, memo)
            if found in known:
                raise DataError(
                    f"{printable(scan.path)}: is the same scan as {printable(known[found].path)}; remove one of them"
                )
            known[found] = scan
        memo.save()
        seen = self.pretrained.scans if self.pretrained else frozenset()
        if seen:
            names = {scan.name for scan in test}
            self.test_seen = sum(found[:16] in seen for found, scan in known.items() if scan.name in names)

    def _slices(self, split: Split, drawn: Sequence[Sequence[Scan]]) -> list[Slices]:
        """The training slices of every repetition: as given, or drawn."""
        dropped = {item.name for item in self.left_out}
        if split.slices:
            given = [split.slices[i % len(split.slices)] for i in range(len(self.seeds))]
            kept = [{name: rows for name, rows in slices.items() if name not in dropped} for slices in given]
            for slices in kept:
                labelled.check_slices(slices, self.shown, str(self.config.split or self.folder / SPLIT))
            return [dict(slices) for slices in kept]
        usable = [[scan for scan in scans if scan.name not in dropped] for scans in drawn]
        return [
            labelled.draw_slices(self.config, scans, self.shown, seed)
            for scans, seed in zip(usable, self.seeds, strict=True)
        ]

    def _warn_absent(self, seed: int, slices: Slices) -> None:
        if self.labels is None:
            return
        number = sum(map(len, slices.values()))
        for name in labelled.absent(slices, self.shown, self.labels.classes):
            self.progress.note(f"class {name!r} is on none of the {number} training slices of seed {seed}")

    def _write(self, split: Split) -> None:
        with replacing(self.folder / FINETUNE) as temporary:  # first: by it a run that was killed is known
            temporary.write_text(self.config.write(), encoding="utf-8")
        write_json(self.folder / SPLIT, split.to_json())

    def _repetition(
        self,
        arm: str,
        seed: int,
        examples: Examples,
        test: Sequence[Scan],
        validation: Sequence[Scan],
        fabric: Fabric,
        surface: bool,
    ) -> None:
        """Train and test one network; what is finished already stays."""
        folder = self.folder / f"{arm}-{seed}"
        keeper = self._keeper(folder / CHECKPOINTS, arm, seed, examples, fabric)
        if (folder / SCORES).is_file() and (folder / MODEL).is_file():
            keeper.finish()
            return
        folder.mkdir(exist_ok=True)
        started = time.perf_counter()
        recipe = Recipe(self.backbone, self.head, self.slicing, None if self.labels is None else self.labels.classes)
        seed_all(step_seed(seed, 4), fabric.device)
        model = recipe.build()
        if arm == "pretrained":
            assert self.pretrained is not None
            receipt = self.pretrained.load_into(model.backbone, self.config.min_transfer)
            write_json(self.folder / RECEIPT, receipt.to_json())
            if seed == self.seeds[0]:
                for line in receipt.lines():
                    self.progress.say(line)
        self.progress.say(f"{arm}, seed {seed}: {len(examples.rows)} slices")
        validate = self._validator(model, examples, validation, fabric) if validation else None
        trained = tune(
            model, examples, self.config, step_seed(seed, 5), fabric, folder / METRICS, self.progress, validate, keeper
        )
        about = {
            "arm": arm,
            "seed": seed,
            "pretraining": self.pretrained.about if arm == "pretrained" and self.pretrained else None,
        }
        recipe.save(folder / MODEL, model, about)
        predictor = Predictor(recipe, model, fabric, self.config.batch_size)
        if self.labels is None:
            found = targets.assess_images(predictor, test, self.readers, surface)
        else:
            found = targets.assess_labels(predictor, test, self.labels, surface, self.config.tolerance)
        write_json(folder / SCORES, {**found, "training": {**trained, "seconds": time.perf_counter() - started}})
        keeper.finish()

    def _keeper(self, folder: Path, arm: str, seed: int, examples: Examples, fabric: Fabric) -> RepetitionKeeper:
        start = checkpoint.digest_of_tensors(self.pretrained.tensors) if self.pretrained and arm != "scratch" else ""
        whose = {"arm": arm, "seed": seed, "pretraining": start}
        machine = {"device": fabric.device.type, "precision": choose_precision(self.config, Progress())}
        return RepetitionKeeper(folder, self.config, whose, machine, examples, self.progress)

    def _validator(
        self, model: Downstream, examples: Examples, validation: Sequence[Scan], fabric: Fabric
    ) -> Callable[[], float]:
        slices = {scan.name: self.shown[scan.name].slices("any") for scan in validation}
        rows = labelled.store_rows(examples.store, slices)
        classes = 0 if self.labels is None else len(self.labels.classes)
        return targets.validator(model, examples, rows, classes, self.config.batch_size, fabric, self.config.seed)

    def _summary(
        self, slices: Sequence[Slices], validation: Sequence[Scan], test: Sequence[Scan], surface: bool
    ) -> dict[str, Any]:
        found = {
            arm: [json.loads((self.folder / f"{arm}-{seed}" / SCORES).read_text("utf-8")) for seed in self.seeds]
            for arm in self.arms
        }
        metrics = metrics_of("image" if self.labels is None else "labels", surface)
        summary: dict[str, Any] = {
            "run": str(self.folder),
            "head": str(self.head),
            "backbone": str(self.backbone),
            "source": None if self.pretrained is None else str(self.pretrained.file),
            "classes": self.labels and list(self.labels.classes.names),
            "seeds": self.seeds,
            "training_slices": [sum(map(len, chosen.values())) for chosen in slices],
            "scans": {
                "train": [len([rows for rows in chosen.values() if rows]) for chosen in slices],
                "validation": len(validation),
                "test": len(test),
                "test_seen_in_pretraining": self.test_seen,
                "left_out": [{"scan": item.name, "reason": item.reason} for item in self.left_out],
                "notes": self.labels.notes if self.labels else [],
            },
            "training": {arm: [one["training"] for one in found[arm]] for arm in found},
            "arms": {arm: statistics.summary_of(found[arm], metrics) for arm in found},
            "how": statistics.HOW,
            "rule": found[self.arms[0]][0]["rule"],
        }
        if len(found) > 1:
            summary["difference"] = statistics.difference_of(found, metrics, {scan.name: scan.patient for scan in test})
        return summary


def _once(scans: Sequence[Scan]) -> list[Scan]:
    """Each scan once, in the order of first appearance."""
    return list({scan.name: scan for scan in scans}.values())


def _slicing(config: ResolvedFinetune, pretrained: Pretrained | None) -> Slicing:
    """How slices are made: as set, else as in the pre-training, else as the dataset suggests."""
    if pretrained is None:
        suggested = {k: v for k, v in config.data.suggested().items() if k in Slicing.model_fields}
        return config.over(Slicing(**suggested))
    return config.over(Slicing(**pretrained.about.get("prepare", {})))
