"""The scores of a cross-validation: over its folds, and of all its patients together, each of whom is scored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmtl_toolkit.evaluation import scores, statistics
from ssmtl_toolkit.specs import MetricSpec

Scores = Mapping[str, Any]
"""What scores.json holds: the scores of the test scans of one repetition."""

HOW = (
    "mean and sd: over the folds (n - 1), of each the mean over its repetitions. pooled: all scans of all folds scored "
    "as one test, the mean over repetitions. over_patients: the mean of each patient's scans and classes, averaged "
    "over repetitions; its 95 % interval is a bootstrap over patients (BCa, 9999 draws), none with fewer than "
    f"{statistics.LEAST_PATIENTS}. Difference: pretrained minus scratch, fold by fold and patient by patient. There "
    "is no interval over folds: their networks share training patients, so their scores are not independent."
)
"""How the numbers of a cross-validation are computed."""


def summarise_folds(
    folds: Sequence[Mapping[str, Sequence[Scores]]], metrics: Sequence[MetricSpec], patients: Mapping[str, str]
) -> dict[str, Any]:
    """Sum up folds, of each of which `folds` has arm -> the scores of its repetitions.

    Args:
        folds: their test scans differ, their classes do not.
        metrics: what they are scored by.
        patients: scan name -> patient.

    Returns:
        `arms`: of each metric, and of each class in `classes`, what `statistics.series` returns over folds, `pooled`
        and `over_patients`; and of two arms their `difference` with a `verdict`.
    """
    arms = list(folds[0])
    each = {arm: [_mean_of(fold[arm], metrics) for fold in folds] for arm in arms}
    together = {arm: _together([fold[arm] for fold in folds], metrics) for arm in arms}
    summary: dict[str, Any] = {"arms": {arm: _arm(each[arm], together[arm], metrics, patients) for arm in arms}}
    if len(arms) > 1:
        summary["difference"] = _difference(each, together, metrics, patients)
    return summary


def _mean_of(repetitions: Sequence[Scores], metrics: Sequence[MetricSpec]) -> Scores:
    """The scores of one fold: the mean over its repetitions."""
    summary = statistics.summary_of(repetitions, metrics)
    means = {"mean": {metric.name: summary[metric.name]["mean"] for metric in metrics}}
    if "classes" in summary:
        means["classes"] = {
            label: {key: value["mean"] for key, value in values.items()} for label, values in summary["classes"].items()
        }
    return means


def _together(folds: Sequence[Sequence[Scores]], metrics: Sequence[MetricSpec]) -> list[Scores]:
    """For each repetition the scores of the scans of all folds."""
    return [_one_test(parts, metrics) for parts in zip(*folds, strict=True)]


def _one_test(parts: Sequence[Scores], metrics: Sequence[MetricSpec]) -> Scores:
    """The scores of several tests as those of one."""
    scans = [scan for part in parts for scan in part["scans"]]
    if "classes" in parts[0]:
        return scores.summarise([scores.ScanScores.of(scan, metrics) for scan in scans], metrics)
    return {"scans": scans, **{key: _over_slices(parts, key, metrics) for key in ("mean", "noisy")}}


def _over_slices(parts: Sequence[Scores], key: str, metrics: Sequence[MetricSpec]) -> dict[str, float | None]:
    """The means over the slices of all parts: each part counts as often as it has slices with a score."""
    scored = [(part[key], part["slices"] - part["undefined"]) for part in parts]
    return {
        metric.name: statistics.mean(value for means, n in scored for value in [means[metric.name]] * n)
        for metric in metrics
    }


def _arm(
    each: Sequence[Scores], together: Sequence[Scores], metrics: Sequence[MetricSpec], patients: Mapping[str, str]
) -> dict[str, Any]:
    summary, pooled = statistics.summary_of(each, metrics), statistics.summary_of(together, metrics)

    def complete(over_folds: dict[str, Any], over_all: Mapping[str, Any], label: str | None = None) -> None:
        for metric in metrics:
            by_patient = [statistics.by_patient(one, metric.name, patients, label) for one in together]
            over_folds[metric.name]["pooled"] = over_all[metric.name]["mean"]
            over_folds[metric.name]["over_patients"] = statistics.of_patients(by_patient)

    complete(summary, pooled)
    for label, values in summary.get("classes", {}).items():
        complete(values, pooled["classes"][label], label)
    return summary | ({"noisy": pooled["noisy"]} if "noisy" in pooled else {})


def _difference(
    each: Mapping[str, Sequence[Scores]],
    together: Mapping[str, Sequence[Scores]],
    metrics: Sequence[MetricSpec],
    patients: Mapping[str, str],
) -> dict[str, Any]:
    """Pretrained minus scratch for every metric, and a verdict by the first that each scan has a score of."""
    difference: dict[str, Any] = {}
    for key in (metric.name for metric in metrics):
        ours, theirs = ([fold["mean"][key] for fold in each[arm]] for arm in ("pretrained", "scratch"))
        over_folds = {k: v for k, v in statistics.paired(ours, theirs).items() if k != "ci95"}
        pairs = ([statistics.by_patient(o, key, patients) for o in together[arm]] for arm in ("pretrained", "scratch"))
        difference[key] = {**over_folds, "over_patients": statistics.over_patients(*pairs)}
    first = next(metric for metric in metrics if not metric.pooled)
    verdict = statistics.verdict_over_patients(difference[first.name]["over_patients"], first)
    return {**difference, "verdict": verdict}
