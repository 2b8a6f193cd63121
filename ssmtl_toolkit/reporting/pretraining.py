"""The sections of a pre-training: what was learned, from which slices, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssmtl_toolkit.reporting.charts import GRAY, Series, chart, colour, curves
from ssmtl_toolkit.reporting.panels import Panel
from ssmtl_toolkit.reporting.parts import Chart, Facts, Folded, Grid, Part, Section, Table, Text, Tone
from ssmtl_toolkit.reporting.records import Record
from ssmtl_toolkit.runtime.folder import METRICS, SAMPLES
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.text import counted, duration

TONES: Mapping[str, Tone] = {
    "learned": "good",
    "memorised": "fair",
    "did not learn": "bad",
    "worse than trivial": "bad",
    "collapsed": "bad",
    "diverged": "bad",
    "starves": "bad",
    "solved at once": "bad",
    "below its floor": "bad",
    "too short to tell": "fair",
    "no pairs": "fair",
}
_FEW, _MANY = 4, 12  # tasks up to which all is shown of their slices, and anything


def sections(record: Record) -> list[Section]:
    """What a pre-training shows, in the order in which one asks."""
    log = MetricLog(record.folder / METRICS)
    panels = read_panels(record)
    return [
        Section("verdicts", "What was learned", _verdicts(record)),
        Section("data", "Data", _data(record)),
        Section("losses", "Losses", losses(record, log)),
        Section("slices", "Slices", _slices(panels)),
        Section("balance", "Gradients and weights", _balance(record, log)),
        Section("features", "Features along a stack", _features(record)),
    ]


def labels_of(record: Record, log: MetricLog) -> list[str]:
    """The tasks, as the log names them."""
    if record.summary:
        return list(record.summary["tasks"])
    keys = [key for line in log.records() for key in line]
    return list(dict.fromkeys(key.removesuffix("/loss") for key in keys if key.endswith("/loss")))


def _verdicts(record: Record) -> list[Part]:
    summary = record.summary
    if not summary:
        return [Text("The verdicts are given at the end of the training.", "fair")]
    parts: list[Part] = [
        Text(f"{label}: {word}: {because}.", TONES.get(word, "plain"))
        for label, task in summary["tasks"].items()
        for word, because in {task["verdict"]: task["because"], **task.get("warnings", {})}.items()
    ]
    rows = [_row(label, task) for label, task in summary["tasks"].items()]
    heads = ["task", "verdict", "loss", "trivial", "held-out loss", "held-out trivial"]
    tones = [TONES.get(task["verdict"], "plain") for task in summary["tasks"].values()]
    parts.append(Table("Losses at the end, beside the best answer without learning", heads, rows, tones=tones))
    if probe := summary.get("probe"):
        best = probe.get("best") or probe
        parts.append(Text(f"Probe: {', '.join(f'{k} {v}' for k, v in best.items() if isinstance(v, int | float))}"))
    return parts


def _row(label: str, task: Mapping[str, Any]) -> list[str]:
    held = task["held_out"] or {}
    return [label, task["verdict"], *(_trivial(task)), *(_trivial(held))]


def _trivial(means: Mapping[str, Any]) -> list[str]:
    loss, best = means.get("loss"), means.get("baseline")
    return ["-" if loss is None else f"{loss:.4g}", f"{means[best]:.4g} ({best})" if best else "-"]


def _data(record: Record) -> list[Part]:
    summary, options = record.summary, record.options
    data = options.get("data", "")
    facts = [("data", "  ".join(data) if isinstance(data, list) else str(data))]
    facts += [
        ("backbone", str(options.get("backbone", ""))),
        ("slices of", f"{options.get('size')} x {options.get('size')} pixels, {options.get('axis')}"),
    ]
    if not summary:
        return [Facts(facts)]
    scans, held = summary["scans"], summary["held_out"]
    facts += [
        ("trained on", f"{counted(scans['used'], 'scan')}, {counted(summary['slices'], 'slice')}"),
        ("held out", f"{counted(len(held['scans']), 'scan')}, {counted(held['slices'], 'slice')}" if held else "none"),
        ("slices per scan", _range(summary["stacks"]["slices"], "")),
        ("distance of slices", _apart(summary["stacks"])),
        ("length", f"{counted(summary['steps'], 'step')}, {summary['epochs']:.3g} epochs"),
        ("speed", f"{summary['images_per_second']:g} images/s, {duration(summary['seconds'])} on {summary['device']}"),
    ]
    parts: list[Part] = [Facts(facts)]
    pairs = [
        [
            label,
            f"{100 * p['share']:.0f} %",
            _apart(p),
            "-" if p["correlation"] is None else f"{p['correlation']:.2f}",
        ]
        for label, p in summary["pairs"].items()
    ]
    if pairs:
        heads = ["task", "slices with a pair", "distance", "correlation of a pair"]
        parts.append(Table("Pairs", heads, pairs))
    notes = [
        *(f"{item['scan']}: {item['reason']}" for item in scans["skipped"]),
        *(f"{n['scan']}: {n['note']}" for n in scans["notes"]),
    ]
    if notes:
        parts.append(Folded(f"Notes and skipped scans ({len(notes)})", [Text(note) for note in notes[:200]]))
    return parts


def _apart(told: Mapping[str, Any]) -> str:
    """How far slices are apart, in mm, or of sequences in time in ms."""
    unit = "ms" if "ms" in told else "mm"
    return _range(told[unit], f" {unit}")


def _range(numbers: Sequence[float], unit: str) -> str:
    ends = [f"{number:.3g}" for number in (min(numbers), max(numbers))] if numbers else ["-", "-"]
    return (ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}") + unit


def losses(record: Record, log: MetricLog) -> list[Part]:
    """A chart for each task: its loss, those of trivial answers, and the same on held-out slices."""
    records = log.records()
    return [_losses(label, records) for label in labels_of(record, log) if any(f"{label}/loss" in r for r in records)]


def _losses(label: str, records: Sequence[Mapping[str, Any]]) -> Chart:
    names = _baselines(label, records)
    series = [Series("training", _points(records, f"{label}/loss"), colour(0))]
    shapes = ("dashed", "dotted", "line", "dashed")
    series += [
        Series(f"{name} (trivial)", _points(records, f"{label}/{name}"), GRAY, shapes[i % 4])  # type: ignore[arg-type]
        for i, name in enumerate(names)
    ]
    series.append(Series("held out", _points(records, f"{label}/held_out"), colour(1), "both"))
    if held := _least([_points(records, f"{label}/held_out_{name}") for name in names]):
        series.append(Series("held out, best trivial", held, colour(1), "dotted"))
    known = [s for s in series if s.points]
    ends = "; ".join(f"{s.name} ends at {list(s.points.values())[-1]:.4g}" for s in known)
    return curves(label, series, "step", "loss", f"Loss of {label} by step: {ends}.")


def _baselines(label: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The trivial answers of a task, best first: those that are also measured on held-out slices, or all but these."""
    keys = list(dict.fromkeys(key for record in records for key in record if key.startswith(f"{label}/")))
    held = [key.removeprefix(f"{label}/held_out_") for key in keys if key.startswith(f"{label}/held_out_")]
    last = {name: list(_points(records, f"{label}/{name}").values())[-1:] for name in held}
    return sorted((name for name in held if last[name]), key=lambda name: last[name][0])[:3]


def _points(records: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    return {record["step"]: record[key] for record in records if key in record}


def _least(series: Sequence[Mapping[int, float]]) -> dict[int, float]:
    steps = sorted({step for one in series for step in one})
    return {step: min(one[step] for one in series if step in one) for step in steps}


def _balance(record: Record, log: MetricLog) -> list[Part]:
    records, parts = log.records(), []
    for ending, title in (
        ("gradient", "Gradient norm at the backbone"),
        ("weight", "Factor of the balancer"),
        ("auto_weight", "Measured weight"),
    ):
        series = [
            Series(label, _points(records, f"{label}/{ending}"), colour(i))
            for i, label in enumerate(labels_of(record, log))
        ]
        known = [s for s in series if len(s.points) > 1]
        if known:
            ends = "; ".join(f"{s.name} ends at {list(s.points.values())[-1]:.3g}" for s in known)
            positive = all(value > 0 for s in known for value in s.points.values())
            spread = positive and max(max(s.points.values()) for s in known) > 30 * min(
                min(s.points.values()) for s in known
            )
            parts.append(curves(title, known, "step", title.lower(), f"{title} by step: {ends}.", log=spread))
    if not parts:
        return [
            Text(
                "Not recorded: --gradient-norms logs how hard each task pulls at the backbone, and balancers other "
                "than fixed log their factors."
            )
        ]
    return list(parts)


def read_panels(record: Record) -> dict[str, list[Panel]]:
    """The panels of each task, by step."""
    panels: dict[str, list[Panel]] = {}
    for file in sorted((record.folder / SAMPLES).glob("*.png")):
        if panel := Panel.read(file):
            panels.setdefault(panel.label, []).append(panel)
    order = [*labels_of(record, MetricLog(record.folder / METRICS)), *panels]
    return {label: sorted(panels[label], key=lambda panel: panel.step) for label in order if label in panels}


def _slices(panels: Mapping[str, Sequence[Panel]]) -> list[Part]:
    if not panels:
        return [Text("No pictures were drawn in this training.")]
    parts: list[Part] = []
    for label, each in list(panels.items())[:_MANY]:
        last = each[-1] if len(panels) <= _FEW else each[-1].first(2)
        rows = [(name, [last.picture(i, j) for j in range(len(last.columns))]) for i, name in enumerate(last.rows)]
        parts.append(Grid(f"{label}, after {counted(last.step, 'step')}", last.columns, rows))
        if len(panels) <= _FEW and (over := _over_time(each)):
            parts.append(over)
    if len(panels) > _MANY:
        parts.append(Text(f"The first {_MANY} of {len(panels)} tasks are shown; {SAMPLES}/ has the others."))
    return parts


def _over_time(panels: Sequence[Panel]) -> Grid | None:
    """The answers to two of the slices, step by step; None of a task without answers."""
    last = panels[-1]
    answers = [title for title in last.columns if title in {"reconstruction", "answer"}] or list(last.columns[-1:])
    changing = [title for title in answers if len(panels) > 1 and _changes(panels, last.columns.index(title))]
    if not changing:
        return None
    column = last.columns.index(changing[0])
    alike = [
        panel for panel in panels if list(panel.columns) == list(last.columns) and list(panel.rows) == list(last.rows)
    ]
    middle = len(last.rows) // 2
    rows = [(last.rows[i], [panel.picture(i, column) for panel in alike]) for i in sorted({max(middle - 1, 0), middle})]
    return Grid(f"{last.label}: {changing[0]} over time", [f"step {panel.step}" for panel in alike], rows)


def _changes(panels: Sequence[Panel], column: int) -> bool:
    first, last = panels[0].tiles, panels[-1].tiles
    return first.shape == last.shape and bool((first[:, column] != last[:, column]).any())


def _features(record: Record) -> list[Part]:
    features = record.summary.get("features")
    if not features:
        return [Text("Not recorded.")]
    points, slices = features["coordinates"], features["slices"]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        xs, ys = [p[0] for p in points], [p[1] if len(p) > 1 else 0.0 for p in points]
        axes.plot(xs, ys, color=GRAY, lw=0.8)
        drawn = axes.scatter(xs, ys, c=slices, cmap="viridis", s=22, zorder=3)
        shares = [*features["explained"], 0.0, 0.0]
        axes.set(
            xlabel=f"first component ({100 * shares[0]:.0f} %)", ylabel=f"second component ({100 * shares[1]:.0f} %)"
        )
        figure.colorbar(drawn, label="slice").outline.set_visible(False)

    alt = (
        f"The pooled features of {len(slices)} slices of {features['scan']} along their two main components, joined in "
        f"the order of the slices."
    )
    told = (
        "Each point is a slice of one scan, joined in order. A path that turns slowly says that neighbours are alike "
        "and far slices are not; a knot says that the features hardly depend on the slice."
    )
    return [chart(f"Slices of {features['scan']}", draw, alt), Text(told)]
