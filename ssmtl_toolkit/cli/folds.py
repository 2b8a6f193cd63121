"""What `ssmtl finetune --folds` prints at its end: scores over the folds, and of all patients together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.specs import MetricSpec
from ssmtl_toolkit.text import counted


def report(console: Any, summary: Mapping[str, Any]) -> None:
    """Print the scores of each arm, and the gain from pre-training."""
    from ssmtl_toolkit.cli.console import print_table

    metrics = formatting.read_metrics(summary["metrics"])
    scans, number = summary["scans"], len(summary["folds"])
    headings = ["", *map(formatting.heading, metrics)]
    print_table(console, f"mean ± sd over {number} folds", headings, list(_over_folds(summary, metrics)))
    console.print()
    title = f"all {counted(scans['test'], 'scan')} as one test"
    print_table(console, title, headings, list(_pooled(summary, metrics)))
    difference = summary.get("difference")
    if difference:
        console.print()
        columns = ["pretrained - scratch", "over folds", "over patients", "95 % CI"]
        print_table(console, "", columns, [_gain(metric, difference[metric.name]) for metric in metrics])
    for line in [*formatting.lower_is_better(metrics), *formatting.remarks(metrics)]:
        console.print(line)
    seen = scans["test_seen_in_pretraining"]
    known = "" if seen is None else f", {seen or 'none'} of them seen in pre-training (without labels)"
    console.print(
        f"{counted(number, 'fold')} of {counted(scans['patients'], 'patient')}, "
        f"{counted(len(summary['seeds']), 'repetition')} each; {counted(scans['test'], 'scan')}, each tested once"
        f"{known}"
    )
    if difference:
        console.print(difference["verdict"])


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each arm, then its classes."""
    for arm, scores in summary["arms"].items():
        classes = scores.get("classes", {})
        yield (f"{arm}, mean" if classes else arm), scores
        for label, values in classes.items():
            yield f"  {label}", values


def _over_folds(summary: Mapping[str, Any], metrics: Sequence[MetricSpec]) -> Iterator[list[str]]:
    for name, scores in _rows(summary):
        yield [name, *(formatting.spread(metric, scores[metric.name]) for metric in metrics)]


def _pooled(summary: Mapping[str, Any], metrics: Sequence[MetricSpec]) -> Iterator[list[str]]:
    """The scores of all scans together, with the interval of the mean over patients below that of an arm."""
    for name, scores in _rows(summary):
        yield [name, *(formatting.number(metric, scores[metric.name]["pooled"]) for metric in metrics)]
        intervals = [scores[metric.name]["over_patients"]["ci95"] for metric in metrics]
        if not name.startswith(" ") and any(intervals):
            cells = (
                formatting.interval(metric, ends, sign=False) for metric, ends in zip(metrics, intervals, strict=True)
            )
            yield ["  95 % CI over patients", *cells]
        if "noisy" in scores:
            yield [
                "  noisy input",
                *(formatting.number(metric, scores["noisy"].get(metric.name)) for metric in metrics),
            ]


def _gain(metric: MetricSpec, difference: Mapping[str, Any]) -> list[str]:
    over = difference["over_patients"]
    return [
        formatting.heading(metric),
        formatting.difference(metric, difference),
        formatting.number(metric, over["mean"], sign=True),
        formatting.interval(metric, over["ci95"]),
    ]
