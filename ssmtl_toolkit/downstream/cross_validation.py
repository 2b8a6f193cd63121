"""Cross-validation: a fine-tuning for each fold of the patients, with equal options, and one summary of them all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import FinetuneConfig, ResolvedFinetune
from ssmtl_toolkit.data import split as splitting
from ssmtl_toolkit.data.files import atomic_write, write_json
from ssmtl_toolkit.data.folds import Folds, make_folds
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation import folded
from ssmtl_toolkit.evaluation.formatting import read_metrics
from ssmtl_toolkit.reporting.ending import report_at_end
from ssmtl_toolkit.runtime.folder import FINETUNE, FOLD, FOLDS, SCORES, SPLIT, SUMMARY
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.results import Result
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import counted, printable


def cross_validate(
    config: ResolvedFinetune,
    folder: Path,
    cache: Path,
    resume: bool,
    progress: Progress,
    finetune: Callable[..., Result],
) -> dict[str, Any]:
    """Train and test every fold in a folder of its own, `fold-0` and so on; returns the summary.

    Args:
        config: with `folds`.
        folder: held by this process.
        cache: as `finetune` takes it.
        resume: keep what is finished in `folder`.
        progress: is notified of what happens.
        finetune: trains and tests one fold; the function of that name.

    Raises:
        UsageError: the options are wrong, or others than those to resume.
        DataError: the folds are not of these scans, or their classes differ.
        SsmtlError: a fold failed; those before it are kept.
    """
    scans = _scans(config, cache)
    folds = _folds(config, scans, folder, resume)
    splits = folds.splits(scans, config.patient)
    if resume:
        _check_same(config, splits, folder)
    summaries: list[dict[str, Any]] = []
    with _described(config, folds, folder, resume):
        for number, split in enumerate(splits):
            tested = counted(len(split.of(scans, "test")), "scan")
            progress.say(f"\nfold {number} ({number + 1} of {len(splits)}): tests on {tested}")
            place = folder / FOLD.format(number)
            one = {"folds": None, "fold": number, "split": (folder / FOLDS).absolute()}
            again = (place / FINETUNE).is_file()
            config_of_fold = config.model_copy(update=one)
            summaries.append(
                finetune(None, config_of_fold, out=place, cache=cache, resume=again, progress=progress).summary
            )
            _check_classes(summaries)
    patients = {scan.name: scan.patient for scan in scans}
    summary = _summarise(folder, summaries, patients)
    write_json(folder / SUMMARY, summary)
    report_at_end(folder, config.report, progress)
    return summary


def _scans(config: ResolvedFinetune, cache: Path) -> list[Scan]:
    """The scans that can be learned from, with their patients; their fine-tunings say what is odd about them."""
    fit = [scan for scan in list_scans(config.data, cache, in_time=config.in_time) if not scan.unfit]
    scans = [scan for scan in fit if scan.label] if config.head.output == "labels" else fit
    return splitting.with_patients(scans, config.patient)[0]


def _folds(config: ResolvedFinetune, scans: Sequence[Scan], folder: Path, resume: bool) -> Folds:
    """The folds that were written by an earlier start, or are given, or new ones."""
    if resume and (folder / FOLDS).is_file():
        return Folds.read(folder / FOLDS)
    if config.split is None:
        assert isinstance(config.folds, int)
        return Folds.of(make_folds(scans, config.folds, config.seed), folder / FOLDS)
    folds = Folds.read(config.split)
    if config.folds not in ("all", len(folds.folds)):
        raise UsageError(
            f"--folds {config.folds}: {printable(config.split)} holds {counted(len(folds.folds), 'fold')}; omit "
            f"--split, or give --folds all"
        )
    return folds


def _check_same(config: ResolvedFinetune, splits: Sequence[Split], folder: Path) -> None:
    """Refuse to resume with options or folds that would make other networks."""
    before = FinetuneConfig.of(FinetuneConfig.read(folder / FINETUNE), str(folder / FINETUNE))
    if changed := config.differences(before):
        raise UsageError(f"{folder}: cannot be resumed with other options: {'; '.join(changed)}; start a new run")
    for number, split in enumerate(splits):
        file = folder / FOLD.format(number) / SPLIT
        if not file.is_file():
            continue
        then = Split.read(file)
        if any(set(getattr(split, part)) != set(getattr(then, part)) for part in splitting.PARTS):
            raise UsageError(
                f"{printable(folder)}: fold {number} has been trained or tested on other patients than "
                f"{printable(folder / FOLDS)} says; restore the list, or start a new run"
            )


@contextlib.contextmanager
def _described(config: ResolvedFinetune, folds: Folds, folder: Path, resume: bool) -> Iterator[None]:
    """Write down what this run is; if its first fold cannot start, no trace is left."""
    with atomic_write(folder / FINETUNE) as temporary:
        temporary.write_text(config.write(), encoding="utf-8")
    write_json(folder / FOLDS, folds.to_json())
    try:
        yield
    finally:
        if not resume and not (folder / FOLD.format(0)).exists():
            for name in (FINETUNE, FOLDS):
                (folder / name).unlink()


def _check_classes(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse the last fold if it has found other classes in its label maps than the first."""
    first, last = summaries[0]["classes"], summaries[-1]["classes"]
    if first != last:
        raise DataError(
            f"fold {len(summaries) - 1} has the classes {', '.join(last)}, and fold 0 {', '.join(first)}: the values "
            f"in their label maps differ; name the classes by --classes, and start a new run"
        )


def _summarise(folder: Path, summaries: Sequence[Mapping[str, Any]], patients: Mapping[str, str]) -> dict[str, Any]:
    """What summary.json holds, of the summaries and scores of all folds."""
    first = summaries[0]
    places = [folder / FOLD.format(number) for number in range(len(summaries))]
    scores = [
        {arm: [_read(place / f"{arm}-{seed}" / SCORES) for seed in first["seeds"]] for arm in first["arms"]}
        for place in places
    ]
    scans = [summary["scans"] for summary in summaries]
    seen = [one["test_seen_in_pretraining"] for one in scans]
    same = {key: first[key] for key in ("head", "backbone", "source", "classes", "seeds", "metrics", "rule")}
    skipped = {item["scan"]: item for one in scans for item in one["skipped"]}
    failures = [line for summary in summaries for line in summary.get("not_scored", ())]
    return {
        "run": str(folder),
        **same,
        "folds": [_of_fold(place, summary) for place, summary in zip(places, summaries, strict=True)],
        "scans": {
            "test": sum(one["test"] for one in scans),
            "patients": len(
                {patients[scan["name"]] for fold in scores for scan in next(iter(fold.values()))[0]["scans"]}
            ),
            "test_seen_in_pretraining": None if None in seen else sum(seen),
            "skipped": list(skipped.values()),
            "notes": list(dict.fromkeys(note for one in scans for note in one["notes"])),
        },
        "remarks": [f"fold {i}, {text}" for i, summary in enumerate(summaries) for text in summary["remarks"]],
        **folded.summarise_folds(scores, read_metrics(first["metrics"]), patients),
        "how": folded.HOW,
        "provenance": {**first["provenance"], "data": ""},
        **({"not_scored": list(dict.fromkeys(failures))} if failures else {}),
    }


def _of_fold(place: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the summary says of one fold; all of it is in its own folder."""
    kept = {key: summary[key] for key in ("training_slices", "ensemble") if key in summary}
    scans = {part: summary["scans"][part] for part in ("train", "validation", "test")}
    return {"fold": place.name, "scans": scans, **kept}


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(file)
    return content
