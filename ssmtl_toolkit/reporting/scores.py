"""Scores of test scans as tables and charts: by class, against volume, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssmtl_toolkit.evaluation import formatting, statistics
from ssmtl_toolkit.reporting.charts import chart, colour
from ssmtl_toolkit.reporting.parts import Part, Table, Text
from ssmtl_toolkit.reporting.records import Record
from ssmtl_toolkit.specs import MetricSpec

Scores = Mapping[str, Sequence[Mapping[str, Any]]]
"""What the repetitions of each arm have scored."""

_PANELS = 6  # classes with a chart of their own


def gains(summary: Mapping[str, Any], metrics: Sequence[MetricSpec]) -> list[Part]:
    """The difference to the twin from scratch, with its intervals."""
    difference = summary.get("difference")
    if not difference:
        return []
    rows = []
    for metric in metrics:
        paired = difference[metric.name]
        over = paired.get("over_patients") or {}
        rows.append(
            [
                formatting.heading(metric),
                formatting.difference(metric, paired),
                formatting.interval(metric, paired.get("ci95")),
                formatting.interval(metric, over.get("ci95")),
            ]
        )
    heads = ["pretrained - scratch", "difference", "95 % interval over repetitions", "95 % interval over patients"]
    return [_without_empty("The gain from pre-training, repetition by repetition", heads, rows)]


def _without_empty(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without the columns in which nothing stands but dashes, such as intervals of too few repetitions."""
    kept = [i for i in range(len(heads)) if i == 0 or any(row[i] != "-" for row in rows)]
    return Table(caption, [heads[i] for i in kept], [[row[i] for i in kept] for row in rows])


def scores_by_class(record: Record) -> list[Part]:
    """A table for each metric: a class a row; and a chart of the first with its deviations."""
    summary = record.summary
    classes = summary.get("classes")
    if not classes:
        return []
    metrics = formatting.read_metrics(summary["metrics"])
    arms = summary["arms"]
    return [*_class_charts(arms, classes, metrics), *(_class_table(arms, classes, metric) for metric in metrics)]


def _class_table(arms: Mapping[str, Any], classes: Sequence[str], metric: MetricSpec) -> Table:
    heads = ["class"]
    for arm in arms:
        heads += [arm, "95 % interval"]
    both, folded = len(arms) > 1, "pooled" in next(iter(arms.values()))[metric.name]
    rows = []
    for name in classes:
        row = [name]
        each = [scores["classes"][name][metric.name] for scores in arms.values()]
        for values in each:
            ends = values["over_patients"]["ci95"] if folded else statistics.interval(values["values"])
            row += [formatting.spread(metric, values), _ends(metric, ends)]
        if both:
            gain = statistics.paired(each[0]["values"], each[1]["values"])
            row += [formatting.difference(metric, gain), formatting.interval(metric, None if folded else gain["ci95"])]
        rows.append(row)
    over = "all test scans as one" if metric.pooled else "mean over test scans"
    caption = f"{formatting.heading(metric)}: {over}, ± deviation over {'folds' if folded else 'repetitions'}"
    return _without_empty(caption, [*heads, *(["difference", "95 % interval"] if both else [])], rows)


def _ends(metric: MetricSpec, ends: Sequence[float] | None) -> str:
    return "-" if ends is None else " to ".join(formatting.number(metric, end) for end in ends)


def _class_charts(arms: Mapping[str, Any], classes: Sequence[str], metrics: Sequence[MetricSpec]) -> list[Part]:
    """Each repetition a point, the mean a bar across, for the first metrics."""
    return [_class_chart(arms, classes[:20], metric) for metric in metrics[1:3] or metrics[:1]]


def _class_chart(arms: Mapping[str, Any], classes: Sequence[str], metric: MetricSpec) -> Part:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for i, (arm, scores) in enumerate(arms.items()):
            side = (i - (len(arms) - 1) / 2) * 0.24
            for place, name in enumerate(classes):
                known = statistics.defined(scores["classes"][name][metric.name]["values"])
                where = [place + side] * len(known)
                label = arm if place == 0 else None
                axes.plot(where, known, ls="", marker="os"[i % 2], ms=5, mfc="none", color=colour(i), label=label)
                if known:
                    axes.hlines(np.mean(known), place + side - 0.1, place + side + 0.1, color=colour(i), lw=2.5)
        axes.set_xticks(range(len(classes)), [name[:14] for name in classes], rotation=30 if len(classes) > 5 else 0)
        axes.set_ylabel(formatting.heading(metric))
        if metric.higher_is_better and axes.get_ylim()[0] > -0.1:
            axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])
        if len(arms) > 1:
            handles, names = axes.get_legend_handles_labels()
            figure.legend(handles, names, loc="outside lower center", ncols=2)

    values = "; ".join(
        f"{name}: "
        + ", ".join(f"{arm} {formatting.spread(metric, s['classes'][name][metric.name])}" for arm, s in arms.items())
        for name in classes
    )
    return chart(formatting.heading(metric), draw, f"{formatting.title(metric)} by class. {values}.")


def score_against_volume(scores: Scores) -> list[Part]:
    """For each class the Dice of each test scan against the volume of its truth, mean over repetitions."""
    first = next((each[0] for each in scores.values()), {})
    names = list(first.get("classes", {}))
    if not names or "voxel_mm3" not in first["scans"][0]:
        return []
    parts: list[Part] = [part for name in names[:_PANELS] if (part := _volume_chart(name, scores)) is not None]
    if len(names) > _PANELS:
        parts.append(Text(f"The first {_PANELS} of {len(names)} classes are drawn; scores.json has all."))
    return parts


def _volume_chart(name: str, scores: Scores) -> Part | None:
    points = {arm: _volumes(name, each) for arm, each in scores.items()}
    if not any(points.values()):
        return None

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for i, (arm, each) in enumerate(points.items()):
            xs, ys = [x for x, _ in each], [y for _, y in each]
            axes.plot(xs, ys, ls="", marker="os"[i % 2], ms=6, mfc="none", mew=1.5, color=colour(i), label=arm)
        axes.set(xlabel="volume of the truth (ml)", ylabel="Dice", ylim=(-0.03, 1.03))
        axes.legend(loc="best") if len(points) > 1 else None

    means = "; ".join(
        f"{arm}: {len(each)} scans, mean Dice {np.mean([y for _, y in each]):.3f}"
        for arm, each in points.items()
        if each
    )
    return chart(f"Class {name}", draw, f"Dice of class {name} against the volume of its truth. {means}.", (5.8, 3.0))


def _volumes(name: str, repetitions: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Volume in ml and Dice of each scan that has the class."""
    found: dict[str, list[tuple[float, float]]] = {}
    for scores in repetitions:
        for scan in scores["scans"]:
            values = scan["classes"][name]
            if values.get("dice") is not None:
                volume = (values["tp"] + values["fn"]) * scan["voxel_mm3"] / 1000
                found.setdefault(scan["name"], []).append((volume, values["dice"]))
    return [(each[0][0], float(np.mean([dice for _, dice in each]))) for each in found.values()]


def confusion(scores: Scores) -> list[Part]:
    """For each arm, of the voxels of each class of the truth, the share that is predicted as each class."""
    parts: list[Part] = []
    for arm, each in scores.items():
        tables = [s["confusion"] for s in each if s.get("confusion")]
        names = ["background", *each[0].get("classes", {})]
        if not tables or len(tables[0]) != len(names):
            continue  # of classes that overlap
        total = np.sum(tables, axis=0).astype(float)
        shares = total / np.maximum(total.sum(axis=1, keepdims=True), 1)
        rows = [[name, *(_percent(x) for x in row)] for name, row in zip(names, shares, strict=True)]
        caption = f"{arm}: of the voxels of each class (row), how many are predicted as what (column)"
        parts.append(Table(caption, ["truth", *names], rows, shades=shares.tolist()))
    return parts


def _percent(share: float) -> str:
    return "0" if share == 0 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
