"""Fine-tuning from options to a report: labelled scans, split, repetitions with and without pre-training, test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ssmtl_toolkit.config import FinetuneConfig, ResolvedFinetune, Role
from ssmtl_toolkit.config.base import resolved_preparations
from ssmtl_toolkit.config.finetune import STARTING
from ssmtl_toolkit.config.signatures import takes
from ssmtl_toolkit.config.tracking import grouped
from ssmtl_toolkit.data import split as splitting
from ssmtl_toolkit.data.files import atomic_write, digest, write_json
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.downstream.cross_validation import cross_validate
from ssmtl_toolkit.downstream.ensemble_scores import assess_ensembles
from ssmtl_toolkit.downstream.gather import Gathering
from ssmtl_toolkit.downstream.model import ModelSpec
from ssmtl_toolkit.downstream.repetition import Repetitions
from ssmtl_toolkit.downstream.summary import summarise
from ssmtl_toolkit.downstream.unlabelled import Unlabelled, gather_unlabelled
from ssmtl_toolkit.engine.building import check_buildable
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.reporting.ending import report_at_end
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.folder import (
    FINETUNE,
    SCORES,
    SPLIT,
    SUMMARY,
    TRANSFER,
    UNLABELLED,
    chosen_weights,
    hold_folder,
)
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.notebook import default_progress
from ssmtl_toolkit.runtime.optimizer import check_optimizer
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.recording import Recorder
from ssmtl_toolkit.runtime.results import Result, Rows
from ssmtl_toolkit.runtime.scans import default_cache, list_scans, measured, open_store
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import BackboneSpec, MetricSpec, check_needs
from ssmtl_toolkit.text import counted, printable, shortened

if TYPE_CHECKING:
    from ssmtl_toolkit.config.typed import FinetuneOptions

_SCORES = ("arms", "ensemble", "difference")  # what of the summary goes to trackers


class Finetuned(Result):
    """A finished fine-tuning, whose folder `predict` takes."""

    def rows(self) -> Rows:
        metrics = formatting.read_metrics(self.summary.get("metrics", ()))
        scores = formatting.score_rows(self.summary.get("arms", {}), self.summary.get("ensemble", {}), metrics)
        return [["", *map(formatting.heading, metrics)], *scores]


@takes(FinetuneConfig)
def finetune(
    source: str | os.PathLike[str] | None = None,
    config: FinetuneConfig | None = None,
    /,
    *,
    out: str | Path,
    cache: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **options: Unpack[FinetuneOptions],
) -> Finetuned:
    """Fine-tune a pre-trained backbone with a head on few labelled slices, and test it on other patients.

    With the option `folds` every fold is trained and tested in a folder of its own below `out`.

    Args:
        source: run folder or backbone file of a pre-training; None: from scratch.
        config: all options as one object, or instead of it …
        options: … any of `FinetuneConfig`'s options by name.
        out: the run folder; it must be new or empty, or hold the fine-tuning to resume.
        cache: folder for prepared slices; by default the user's cache directory.
        resume: keep the repetitions in `out` that are finished, and continue with the others.
        progress: is notified of what happens, to show it; by default the output of a notebook's cell.

    Raises:
        UsageError: the options are wrong or do not go together, or too little of the pre-training can be loaded.
        DataError: scans, labels, split or weights cannot be used.
        SsmtlError: the run failed.
    """
    if source is not None:
        options["source"] = Path(source)
    if config is not None and options:
        raise UsageError(f"both a configuration and options ({', '.join(options)}) are given; put them into one")
    resolved = (config or FinetuneConfig.of(options)).resolve()
    folder, cache = Path(out), Path(cache) if cache else default_cache()
    record = Recorder(folder, "finetune", progress or default_progress())
    with interrupts, hold_folder(folder, resume, FINETUNE), record:
        if resolved.folds is not None:  # each fold is a run of its own
            one = resolved.model_copy(update={"track": grouped(resolved.track, folder.absolute().name)})
            return Finetuned(folder, cross_validate(one, folder, cache, resume, record, finetune))
        return Finetuned(folder, _finetune(resolved, folder, cache, resume, record))


def _finetune(config: ResolvedFinetune, folder: Path, cache: Path, resume: bool, progress: Recorder) -> dict[str, Any]:
    """Gather, train what is not finished, sum up; returns the summary."""
    pretrained = _opened(config)
    backbone, slicing = _backbone(config, pretrained), _slicing(config, pretrained)
    check_needs(backbone, [config.head, *config.pretext_tasks])
    check_optimizer(config.optimizer)
    check_buildable(backbone)
    if pretrained and pretrained.channels:
        pretrained.check_fits(backbone, pretrained.channels, config.min_transfer)
    if config.unlabelled:
        list_scans(config.unlabelled, cache)
    config = config.model_copy(update={"backbone": backbone, **dict(slicing)})
    metrics = config.chosen_metrics(config.head.output)
    for note in config.unused(metrics):
        progress.note(note)
    if resume:
        config = _as_begun(config, folder)
        _check_scored(metrics, folder)
    if pretrained:
        for note in filter(None, (pretrained.chosen(), _otherwise(slicing, pretrained))):
            progress.note(note)
    else:
        for note in config.without_effect(*STARTING, because="there are no weights to start from (--from)"):
            progress.note(note)
    fabric = make_fabric(config, progress)
    written = folder / SPLIT if resume and (folder / SPLIT).is_file() else None
    material = Gathering(config, slicing, pretrained, cache, progress).run(written)
    slicing = measured(material.reading, material.training, progress)
    unlabelled = gather_unlabelled(config, slicing, material, cache, progress)
    if not material.test:
        raise DataError("none of the test scans can be used; fix them, or choose others with --split")
    used = list({scan.name: scan for scan in [*material.training, *material.validation]}.values())
    decoded = material.reading.decoded
    store = open_store(used, slicing, cache, progress, skip_bad=False, label_maps="note", read=decoded.scan)
    decoded.forget(used)
    if pretrained and not pretrained.channels:
        pretrained.check_fits(backbone, store.channels, config.min_transfer)
    if pretrained and pretrained.usage:
        unlike = {scan.scan.path: pretrained.usage.unlike(scan.spacing) for scan in store.scans}
        for note in shortened([f"{printable(path)}: {text}" for path, text in unlike.items() if text], 2):
            progress.note(note)
    truth = material.targets.tensor(store)
    model_spec = ModelSpec(backbone, config.head, slicing, material.targets.classes, store.channels, material.contrasts)
    repetitions = Repetitions(
        config, folder, model_spec, pretrained, material, store, truth, unlabelled, fabric, metrics, progress
    )
    if not resume:
        repetitions = repetitions.with_layout()
    _write(repetitions.config, material.split, unlabelled, folder)
    progress.begin(repetitions.config, config.track, fabric.device)
    repetitions.run()
    summary = summarise(repetitions, assess_ensembles(repetitions))
    write_json(folder / SUMMARY, summary)
    progress.scores({name: summary.get(name) for name in _SCORES})
    report_at_end(folder, config.report, progress)
    progress.done()
    for remark in summary["remarks"]:
        progress.note(remark)
    return summary


def _opened(config: ResolvedFinetune) -> Pretrained | None:
    """The weights to start from, if any."""
    if config.source is None:
        return None
    return Pretrained.open(config.source, prefix=config.prefix).limited(config.transfer)


def _backbone(config: ResolvedFinetune, pretrained: Pretrained | None) -> BackboneSpec:
    """The network: as set, else that of the pre-training, else a U-Net."""
    if config.backbone is not None:
        return config.backbone
    if pretrained is None:
        return registry().resolve(BackboneSpec, "unet")
    spec = pretrained.spec()
    if spec is None:
        raise UsageError(
            f"{pretrained.file}: does not record which network its weights belong to; give it with --backbone"
        )
    return spec


def _write(config: ResolvedFinetune, split: Split, unlabelled: Unlabelled | None, folder: Path) -> None:
    """Write down what this run is; raises what `_check_unlabelled` does."""
    if unlabelled and (folder / UNLABELLED).is_file():
        _check_unlabelled(unlabelled.to_json(), folder)
    with atomic_write(folder / FINETUNE) as temporary:  # first: it identifies a run that was killed
        temporary.write_text(config.write(), encoding="utf-8")
    write_json(folder / SPLIT, split.to_json())
    if unlabelled:
        write_json(folder / UNLABELLED, unlabelled.to_json())


def _check_unlabelled(now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume with other unlabelled slices, wherever they are now.

    Raises:
        UsageError: the repetitions in the folder have learned from others.
    """
    then = read_result(folder / UNLABELLED, *now)
    if not then:
        raise DataError(
            f"{printable(folder / UNLABELLED)}: is damaged; remove it to continue with the unlabelled scans as they "
            f"are now, or start a new run"
        )
    if then["fingerprint"] != now["fingerprint"]:
        raise UsageError(
            f"{folder}: cannot be resumed with other unlabelled scans: there are {counted(now['scans'], 'scan')} with "
            f"{counted(now['slices'], 'slice')}, were {then['scans']} with {then['slices']}, or their contents or "
            f"order differ; restore them, or start a new run"
        )


def _as_begun(config: ResolvedFinetune, folder: Path) -> ResolvedFinetune:
    """Take the memory layout that was chosen when it began; refuse options that would make other repetitions."""
    before = FinetuneConfig.of(FinetuneConfig.read(folder / FINETUNE), str(folder / FINETUNE))
    changed = config.differences(before) + _other_files(config, before, folder)
    if changed:
        raise UsageError(f"{folder}: cannot be resumed with other options: {'; '.join(changed)}; start a new run")
    chosen = before.channels_last if config.channels_last == "auto" else config.channels_last
    return config.model_copy(update={"channels_last": chosen})


def _check_scored(metrics: Sequence[MetricSpec], folder: Path) -> None:
    """Refuse to put repetitions side by side that are scored by different metrics."""
    now = {metric.name: metric.full() for metric in metrics}
    for file in sorted(folder.glob(f"*/{SCORES}")):
        scores = read_result(file, "mean")
        if not scores:  # damaged: that repetition is done again
            continue
        then = {text.partition(":")[0]: text for text in scores.get("metrics", scores["mean"])}
        exact = "metrics" in scores  # version 0.1 wrote the names only
        if then != now if exact else set(then) != set(now):
            raise UsageError(
                f"{folder}: its finished repetitions are scored by {', '.join(then.values())}; others would be scored "
                f"by {', '.join(now.values())}; resume with --surface, --tolerance and --metric as they were (ssmtl "
                f"evaluate scores predictions by any metric), or start a new run"
            )


def _other_files(config: FinetuneConfig, before: FinetuneConfig, folder: Path) -> list[str]:
    """Name those of source and split whose content has changed since the run began, wherever they are now."""
    same = set()
    source = config.source and (chosen_weights(config.source) if config.source.is_dir() else config.source)
    if source and source.is_file() and (folder / TRANSFER).is_file():
        same |= {"source"} if read_result(folder / TRANSFER).get("sha256") == digest(source) else set()
    if config.split and config.fold is None and config.split.is_file() and (folder / SPLIT).is_file():
        ours, theirs = Split.read(config.split), Split.read(folder / SPLIT)
        same |= {"split"} if all(getattr(ours, part) == getattr(theirs, part) for part in splitting.PARTS) else set()
    if config.fold is not None and config.split and config.split.parent == folder.absolute().parent:
        same |= {"split"}  # the list of a cross-validation, which was moved with its folds and is compared by it
    now, then = config.of_roles(Role.PLACE), before.of_roles(Role.PLACE)
    moved = [name for name in ("source", "split") if now[name] != then[name]]
    return [f"{name} is {now[name]!r}, was {then[name]!r}" for name in moved if name not in same]


def _otherwise(slicing: Slicing, pretrained: Pretrained) -> str:
    """Which slices the pre-training has seen, if they are made in another way here; "" if not, or not recorded."""
    if not pretrained.about:
        return ""
    now, then = slicing.model_dump(mode="json"), pretrained.slicing().model_dump(mode="json")
    numbers = {"normalise"} if slicing.normalise == "data" else set()  # measured anew
    other = [f"{name} is {_said(now[name])}, was {_said(then[name])}" for name in now if now[name] != then[name]]
    other = [text for text in other if text.partition(" ")[0] not in numbers]
    return f"slices are made in another way than those of the pre-training: {'; '.join(other)}" if other else ""


def _said(value: Any) -> str:
    return (" ".join(map(str, value)) if isinstance(value, list) else str(value)) if value else "none"


def _slicing(config: ResolvedFinetune, pretrained: Pretrained | None) -> Slicing:
    """How slices are made: as set, else as in the pre-training, else as the dataset suggests."""
    if pretrained is None:
        suggested = {k: v for k, v in config.data.suggested().items() if k in Slicing.model_fields}
        slicing = config.over(Slicing(**suggested))
        return slicing.model_copy(update={"prepare": resolved_preparations(slicing.prepare)})
    return config.over(pretrained.slicing())
