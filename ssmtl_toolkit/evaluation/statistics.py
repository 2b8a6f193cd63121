"""Is it better than from scratch? Means over repetitions, paired differences, and how sure one can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Numbers = Sequence[float | None]

LEAST_REPETITIONS = 4
"""Fewer repetitions give no interval: Student's t over two or three says nothing (IoU -1.9 to 2.0)."""
LEAST_PATIENTS = 8
"""Fewer test patients give no interval: a bootstrap over a handful is too narrow and looks significant."""

HOW = (
    "sd: standard deviation over the repetitions (n - 1). Paired difference: pretrained minus scratch, repetition by "
    "repetition (equal seed, scans, slices, steps); its 95 % interval is Student's t over repetitions, so it speaks "
    f"for these test scans and other draws of training slices; none with fewer than {LEAST_REPETITIONS} repetitions. "
    "over_patients: the difference of each test patient, averaged over repetitions; its 95 % interval is a bootstrap "
    "over patients (BCa, 9999 draws), so it speaks for other patients and these trainings; none with fewer than "
    f"{LEAST_PATIENTS} patients."
)
"""How the numbers of a report are made."""


def spread(values: Numbers) -> dict[str, Any]:
    """Mean and standard deviation of the defined values; `n` counts those, `values` keeps all in order."""
    defined = [v for v in values if v is not None and math.isfinite(v)]
    return {
        "mean": float(np.mean(defined)) if defined else None,
        "sd": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        "n": len(defined),
        "values": list(values),
    }


def paired(ours: Numbers, theirs: Numbers) -> dict[str, Any]:
    """The differences of two series, with a 95 % interval by Student's t; None with too few repetitions."""
    pairs = zip(ours, theirs, strict=True)
    found = spread([None if a is None or b is None else a - b for a, b in pairs])
    return {**found, "ci95": _t_interval(found["mean"], found["sd"], found["n"])}


def _t_interval(mean: float | None, sd: float | None, n: int) -> list[float] | None:
    if mean is None or sd is None or n < LEAST_REPETITIONS:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return [mean - half, mean + half]


def over_patients(ours: Sequence[Mapping[str, Numbers]], theirs: Sequence[Mapping[str, Numbers]]) -> dict[str, Any]:
    """Paired difference by patient: each repetition gives patient -> scores of the patient's scans."""
    differences = []
    for patient in ours[0]:
        pairs = [_difference(a[patient], b[patient]) for a, b in zip(ours, theirs, strict=True)]
        defined = [d for d in pairs if d is not None]
        if defined:
            differences.append(float(np.mean(defined)))
    found = spread(differences)
    del found["values"]
    return {**found, "ci95": _bootstrap(differences)}


def _difference(ours: Numbers, theirs: Numbers) -> float | None:
    both = [a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return float(np.mean(both)) if both else None


def _bootstrap(values: Sequence[float]) -> list[float] | None:
    if len(values) < LEAST_PATIENTS or len(set(values)) < 3:
        return None
    from scipy.stats import bootstrap  # type: ignore[attr-defined]

    found = bootstrap((np.array(values),), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return [float(found.low), float(found.high)]


def metrics_of(labels: bool, surface: bool) -> list[str]:
    """Name the scores of a report, the one to look at first."""
    if labels:
        return ["iou", "dice", *(["hd95", "surface_dice"] if surface else [])]
    return ["psnr", *(["ssim"] if surface else [])]


def summary_of(found: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, Any]:
    """Mean and deviation over repetitions: of the mean over classes, and of each class."""
    made: dict[str, Any] = {name: spread([one["mean"][name] for one in found]) for name in metrics}
    if "classes" in found[0]:
        made["classes"] = {
            label: {name: spread([_class_value(one["classes"][label][name]) for one in found]) for name in metrics}
            for label in found[0]["classes"]
        }
    if "noisy" in found[0]:
        made["noisy"] = found[0]["noisy"]
    return made


def _class_value(value: Any) -> float | None:
    found: float | None = value["mean"] if isinstance(value, dict) else value
    return found


def difference_of(
    found: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str], patients: Mapping[str, str]
) -> dict[str, Any]:
    """Pretrained minus scratch: over repetitions for every metric, and over test patients for the one of each scan."""
    ours, theirs = found["pretrained"], found["scratch"]
    made: dict[str, Any] = {
        name: paired([one["mean"][name] for one in ours], [one["mean"][name] for one in theirs]) for name in metrics
    }
    per_scan = "psnr" if "psnr" in metrics else "dice"
    made[per_scan]["over_patients"] = over_patients(
        [_by_patient(one, per_scan, patients) for one in ours], [_by_patient(one, per_scan, patients) for one in theirs]
    )
    return made


def _by_patient(found: Mapping[str, Any], metric: str, patients: Mapping[str, str]) -> dict[str, list[float | None]]:
    """Patient -> a value for each of the patient's scans (and classes)."""
    grouped: dict[str, list[float | None]] = {}
    for scan in found["scans"]:
        values = [one[metric] for one in scan["classes"].values()] if "classes" in scan else [scan[metric]]
        grouped.setdefault(patients[scan["name"]], []).extend(values)
    return grouped
