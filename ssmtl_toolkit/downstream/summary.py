"""What a fine-tuning reports at its end: scores of all arms, and the gain from pre-training."""

from __future__ import annotations

import json
from typing import Any

from ssmtl_toolkit.downstream.repetition import Repetitions
from ssmtl_toolkit.evaluation import statistics
from ssmtl_toolkit.evaluation.metrics import metrics_of
from ssmtl_toolkit.runtime.folder import SCORES


def summarise(done: Repetitions) -> dict[str, Any]:
    """Return what summary.json holds."""
    scores: dict[str, list[Any]] = {
        arm: [json.loads((done.folder / f"{arm}-{seed}" / SCORES).read_text("utf-8")) for seed in done.seeds]
        for arm in done.arms
    }
    targets = done.material.targets
    metrics = metrics_of(targets.output, done.surface)
    summary: dict[str, Any] = {
        "run": str(done.folder),
        "head": str(done.model_spec.head),
        "backbone": str(done.model_spec.backbone),
        "source": None if done.pretrained is None else str(done.pretrained.file),
        "classes": targets.classes and list(targets.classes.names),
        "seeds": done.seeds,
        "training_slices": [sum(map(len, slices.values())) for slices in done.material.slices],
        "scans": _scans(done),
        "training": {arm: [repetition["training"] for repetition in scores[arm]] for arm in scores},
        "arms": {arm: statistics.summary_of(scores[arm], metrics) for arm in scores},
        "how": statistics.HOW,
        "rule": scores[done.arms[0]][0]["rule"],
    }
    if done.unlabelled:
        skipped = [item.to_json() for item in done.unlabelled.skipped]
        summary["unlabelled"] = {"semi": str(done.config.semi), **done.unlabelled.to_json(), "skipped": skipped}
    if len(scores) > 1:
        patients = {scan.name: scan.patient for scan in done.material.test}
        summary["difference"] = statistics.difference_of(scores, metrics, patients)
    return summary


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
