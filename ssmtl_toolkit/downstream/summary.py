"""What a fine-tuning reports at its end: scores of all arms, and the gain from pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.downstream import convergence, largest
from ssmtl_toolkit.downstream.repetition import Repetitions
from ssmtl_toolkit.evaluation import statistics
from ssmtl_toolkit.runtime.folder import SCORES
from ssmtl_toolkit.runtime.provenance import provenance


def summarise(done: Repetitions, together: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what summary.json holds; `together` is what `assess_ensembles` returns."""
    scores: dict[str, list[Any]] = {
        arm: [read_json(done.folder / f"{arm}-{seed}" / SCORES) for seed in done.seeds] for arm in done.arms
    }
    targets, metrics = done.material.targets, done.metrics
    drawn = done.material.slices
    redrawn = len(drawn) == 1 or any(slices != drawn[0] for slices in drawn)
    summary: dict[str, Any] = {
        "run": str(done.folder),
        "head": str(done.model_spec.head),
        "backbone": str(done.model_spec.backbone),
        "source": None if done.pretrained is None else str(done.pretrained.file),
        "classes": targets.classes and list(targets.classes.names),
        "seeds": done.seeds,
        "training_slices": [sum(map(len, slices.values())) for slices in drawn],
        "redrawn": redrawn,
        "scans": _scans(done),
        "training": {arm: [repetition["training"] for repetition in scores[arm]] for arm in scores},
        "remarks": [f"{arm}: {text}" for arm in scores for text in _remarks(scores[arm], done)],
        "metrics": [metric.full() for metric in metrics],
        "arms": {arm: statistics.summary_of(scores[arm], metrics) for arm in scores},
        "how": statistics.how(redrawn=redrawn),
        "rule": scores[done.arms[0]][0]["rule"],
    }
    config = done.config
    specs = [config.data, done.model_spec.backbone, done.model_spec.head, *config.augment, *metrics]
    specs += [spec for spec in (config.semi, *config.pretext_tasks) if spec is not None]
    summary["provenance"] = provenance(specs, done.seeds, done.store.fingerprint, str(done.fabric.device))
    if together:
        summary["ensemble"] = {
            arm: {"models": tested["models"], **statistics.summary_of([tested["scores"]], metrics)}
            for arm, tested in together.items()
        }
    failures = [line for arm in scores.values() for repetition in arm for line in repetition.get("not_scored", ())]
    if failures:
        summary["not_scored"] = list(dict.fromkeys(failures))
    if done.unlabelled:
        skipped = [item.to_json() for item in done.unlabelled.skipped]
        about = {"semi": str(done.config.semi), **done.unlabelled.to_json(), "skipped": skipped}
        summary["unlabelled"] = about | {"doubts": _doubts(summary["training"])}
    if len(scores) > 1:
        patients = {scan.name: scan.patient for scan in done.material.test}
        summary["difference"] = statistics.difference_of(scores, metrics, patients)
    return summary


def _remarks(repetitions: list[Any], done: Repetitions) -> list[str]:
    trained = [repetition["training"].get("convergence") for repetition in repetitions]
    converged = convergence.remark([how and convergence.Convergence(**how) for how in trained], done.config.steps)
    parts = largest.remark([one["largest_component"] for one in repetitions if "largest_component" in one])
    return [text for text in (converged, parts) if text]


def _doubts(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """In how many trainings pseudo labels seemed to do harm, or taught nothing."""
    every = [one["pseudo_labels"] for trainings in training.values() for one in trainings if "pseudo_labels" in one]
    harmed = sum(bool(one["warnings"]) for one in every)
    idle = sum(not one.get("taught", True) for one in every)
    told = (
        (harmed, "the pseudo labels are in doubt (see the notes); compare with --semi none"),
        (idle, "hardly any pixel was sure at the end: pseudo labels taught next to nothing; give more --steps"),
    )
    return [f"in {number} of {len(every)} trainings {text}" for number, text in told if number]


def _scans(done: Repetitions) -> dict[str, Any]:
    material = done.material
    return {
        "train": [len([rows for rows in slices.values() if rows]) for slices in material.slices],
        "validation": len(material.validation),
        "test": len(material.test),
        "test_seen_in_pretraining": material.test_seen,
        "skipped": [item.to_json() for item in material.skipped],
        "notes": list(material.targets.notes),
    }
