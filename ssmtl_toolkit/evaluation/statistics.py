"""Is it better than from scratch? Means over repetitions, paired differences, and how sure one can be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.specs import MetricSpec

Numbers = Sequence[float | None]

LEAST_REPETITIONS = 4
"""Fewer repetitions give no interval: Student's t over two or three says nothing (IoU -1.9 to 2.0)."""
ENOUGH_REPETITIONS = 5
"""How many are recommended to someone who has too few."""
LEAST_PATIENTS = 8
"""Fewer test patients give no interval: a bootstrap over a handful is too narrow and looks significant."""


def how(*, redrawn: bool) -> str:
    """How the numbers of a report are computed; `redrawn`: the repetitions train on different slices."""
    other = (
        "other draws of training slices" if redrawn else "other seeds, not for other training slices: all have these"
    )
    return (
        "sd: standard deviation over the repetitions (n - 1). Paired difference: pretrained minus scratch, repetition "
        "by repetition (equal seed, scans, slices, steps); its 95 % interval is Student's t over repetitions, so it "
        f"speaks for these test scans and {other}; none with fewer than {LEAST_REPETITIONS} repetitions. "
        "over_patients: the difference of each test patient, averaged over repetitions; its 95 % interval is a "
        "bootstrap over patients (BCa, 9999 draws), so it speaks for other patients and these trainings; none with "
        f"fewer than {LEAST_PATIENTS} patients."
    )


def defined(values: Iterable[float | None]) -> list[float]:
    """The values that are neither None nor infinite nor NaN."""
    return [value for value in values if value is not None and math.isfinite(value)]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the defined values; None if there are none."""
    numbers = defined(values)
    return float(np.mean(numbers)) if numbers else None


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean, sample standard deviation (n - 1; None below two values) and number of the defined values."""
    numbers = defined(values)
    sd = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return {"mean": mean(numbers), "sd": sd, "n": len(numbers)}


def series(values: Numbers) -> dict[str, Any]:
    """The spread of the values of repetitions, and `values`, all of them in order."""
    return {**spread(values), "values": list(values)}


def paired(ours: Numbers, theirs: Numbers) -> dict[str, Any]:
    """The differences of two series, with a 95 % interval by Student's t; None with too few repetitions."""
    pairs = zip(ours, theirs, strict=True)
    differences = series([None if a is None or b is None else a - b for a, b in pairs])
    return {**differences, "ci95": _t_interval(differences["mean"], differences["sd"], differences["n"])}


def interval(values: Numbers) -> list[float] | None:
    """The 95 % interval of the mean of repetitions by Student's t; None with too few."""
    known = spread(values)
    return _t_interval(known["mean"], known["sd"], known["n"])


def _t_interval(mean: float | None, sd: float | None, n: int) -> list[float] | None:
    if mean is None or sd is None or n < LEAST_REPETITIONS:
        return None
    from scipy.special import stdtrit  # as scipy.stats takes it, which would be loaded for this quantile alone

    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return [mean - half, mean + half]


def over_patients(ours: Sequence[Mapping[str, Numbers]], theirs: Sequence[Mapping[str, Numbers]]) -> dict[str, Any]:
    """Paired difference by patient: each repetition gives patient -> scores of the patient's scans."""
    differences = defined(
        mean(_difference(a[patient], b[patient]) for a, b in zip(ours, theirs, strict=True)) for patient in ours[0]
    )
    return {**spread(differences), "ci95": _bootstrap(differences)}


def of_patients(repetitions: Sequence[Mapping[str, Numbers]]) -> dict[str, Any]:
    """Spread over patients, with a 95 % interval: each repetition gives patient -> scores of the patient's scans."""
    values = defined(mean(mean(one[patient]) for one in repetitions) for patient in repetitions[0])
    return {**spread(values), "ci95": _bootstrap(values)}


def _difference(ours: Numbers, theirs: Numbers) -> float | None:
    return mean(a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None)


def _bootstrap(values: Sequence[float]) -> list[float] | None:
    if len(values) < LEAST_PATIENTS or len(set(values)) < 3:
        return None
    from scipy.stats import bootstrap  # type: ignore[attr-defined]

    interval = bootstrap((np.array(values),), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return [float(interval.low), float(interval.high)]


def summary_of(repetitions: Sequence[Mapping[str, Any]], metrics: Sequence[MetricSpec]) -> dict[str, Any]:
    """Mean and deviation over repetitions: of the mean over classes, and of each class."""
    keys = [metric.name for metric in metrics]
    summary: dict[str, Any] = {key: series([scores["mean"][key] for scores in repetitions]) for key in keys}
    if "classes" in repetitions[0]:
        summary["classes"] = {
            label: {
                key: series([_class_value(scores["classes"][label][key]) for scores in repetitions]) for key in keys
            }
            for label in repetitions[0]["classes"]
        }
    if "noisy" in repetitions[0]:
        summary["noisy"] = repetitions[0]["noisy"]
    return summary


def _class_value(value: Any) -> float | None:
    number: float | None = value["mean"] if isinstance(value, dict) else value
    return number


def difference_of(
    repetitions: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[MetricSpec], patients: Mapping[str, str]
) -> dict[str, Any]:
    """Pretrained minus scratch: over repetitions for every metric, over test patients for the one of each scan; and a
    `verdict` in words by the first metric."""
    ours, theirs = repetitions["pretrained"], repetitions["scratch"]
    keys = [metric.name for metric in metrics]
    difference: dict[str, Any] = {
        key: paired([scores["mean"][key] for scores in ours], [scores["mean"][key] for scores in theirs])
        for key in keys
    }
    per_scan = next(metric.name for metric in metrics if not metric.pooled)
    difference[per_scan]["over_patients"] = over_patients(
        [by_patient(scores, per_scan, patients) for scores in ours],
        [by_patient(scores, per_scan, patients) for scores in theirs],
    )
    return {**difference, "verdict": verdict(difference[keys[0]], metrics[0])}


def verdict(difference: Mapping[str, Any], metric: MetricSpec) -> str:
    """Say in a line whether pre-training helped, by what `paired` returns of the first metric."""
    if difference["ci95"] is None:
        return f"too few repetitions to tell ({_too_few(difference['n'], len(difference['values']))})"
    return _told(difference, metric, formatting.mean_heading(metric))


def verdict_over_patients(difference: Mapping[str, Any], metric: MetricSpec) -> str:
    """Say the same by what `over_patients` returns."""
    if difference["ci95"] is None:
        return f"too few patients to tell ({difference['n']}; an interval needs {LEAST_PATIENTS} that differ)"
    return _told(difference, metric, f"{formatting.heading(metric)} of a patient")


def _told(difference: Mapping[str, Any], metric: MetricSpec, name: str) -> str:
    low, high = difference["ci95"] if metric.higher_is_better else [-end for end in reversed(difference["ci95"])]
    said = "pre-training helped" if low > 0 else "pre-training harmed" if high < 0 else "no difference can be told"
    mean = formatting.number(metric, difference["mean"], sign=True)
    return f"{said}: {name} {mean} (95 % {formatting.interval(metric, difference['ci95'])})"


def _too_few(scored: int, total: int) -> str:
    """How many repetitions have a score, and what to do if there are not enough of them."""
    if total < LEAST_REPETITIONS:
        return f"{total}; --seeds {ENOUGH_REPETITIONS} gives an interval"
    return f"{scored} of {total} have a score"


def by_patient(
    scores: Mapping[str, Any], metric: str, patients: Mapping[str, str], label: str | None = None
) -> dict[str, list[float | None]]:
    """Patient -> a value for each of the patient's scans (and classes, or that of the class `label` alone)."""
    grouped: dict[str, list[float | None]] = {}
    for scan in scores["scans"]:
        classes = scan.get("classes", {"": scan})
        values = [values[metric] for name, values in classes.items() if label in (None, name)]
        grouped.setdefault(patients[scan["name"]], []).extend(values)
    return grouped
