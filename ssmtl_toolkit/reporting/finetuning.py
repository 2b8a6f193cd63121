"""The sections of a fine-tuning: what was transferred and gained, and on which scans it fails."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.overlay import colours
from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.reporting.cases import ends
from ssmtl_toolkit.reporting.charts import Series, colour, curves
from ssmtl_toolkit.reporting.parts import Facts, Folded, Gallery, Part, Picture, Section, Swatches, Table, Text, Tone
from ssmtl_toolkit.reporting.records import Record
from ssmtl_toolkit.reporting.scores import confusion, gains, score_against_volume, scores_by_class
from ssmtl_toolkit.runtime.folder import CASES, FOLD, METRICS, SCORES, TRANSFER
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.text import counted, duration

ARMS = ("pretrained", "scratch")
_FOLDED, _REPETITION = re.compile(FOLD.format(r"\d+")), re.compile(r"(pretrained|scratch)-\d+")


def sections(record: Record) -> list[Section]:
    """What a fine-tuning shows, in the order in which one asks."""
    return [
        Section("result", "Result", _result(record)),
        Section("classes", "Scores by class", scores_by_class(record)),
        Section("cases", "Worst and best cases", _cases(record)),
        Section("confusion", "Confusion", confusion(scores_of(record))),
        Section("volume", "Score against volume", score_against_volume(scores_of(record))),
        Section("curves", "Curves", training_curves(record)),
        Section("unlabelled", "Unlabelled scans", _unlabelled(record)),
        Section("transfer", "Transfer", _transfer(record)),
        Section("data", "Data", _data(record)),
    ]


def repetitions(record: Record) -> dict[str, list[str]]:
    """The repetitions of each arm that have begun, as folders below the run's; of a cross-validation those of folds."""
    folds = _numbered(record.folder, _FOLDED) or [record.folder]
    places = [place for fold in folds for place in _numbered(fold, _REPETITION)]
    named = {arm: [place for place in places if place.name.startswith(arm)] for arm in ARMS}
    return {arm: [path.relative_to(record.folder).as_posix() for path in each] for arm, each in named.items() if each}


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The folders below with such a name, in the order of the number that ends it."""
    found = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def scores_of(record: Record) -> dict[str, list[dict[str, Any]]]:
    """What the finished repetitions of each arm have scored."""
    read = {arm: [record.read(f"{name}/{SCORES}") for name in names] for arm, names in repetitions(record).items()}
    return {arm: [scores for scores in each if scores] for arm, each in read.items() if any(each)}


def _result(record: Record) -> list[Part]:
    summary = record.summary
    if not summary:
        done = sum(len(each) for each in scores_of(record).values())
        return [Text(f"{counted(done, 'repetition')} finished so far; the result is given when all are.", "fair")]
    parts: list[Part] = []
    if difference := summary.get("difference"):
        parts.append(Text(f"Pre-trained against from scratch: {difference['verdict']}.", _tone(summary)))
    parts += [Text(remark, "fair") for remark in summary["remarks"]]
    metrics = formatting.read_metrics(summary["metrics"])
    rows = [[arm, *(formatting.spread(m, scores[m.name]) for m in metrics)] for arm, scores in summary["arms"].items()]
    for arm, scores in summary.get("ensemble", {}).items():
        rows.append([f"{arm}, models together", *(formatting.number(m, scores[m.name]["mean"]) for m in metrics)])
    noisy = next((scores["noisy"] for scores in summary["arms"].values() if "noisy" in scores), None)
    if noisy:
        rows.append(["noisy input", *(formatting.number(m, noisy.get(m.name)) for m in metrics)])
    over = (
        counted(len(summary["folds"]), "fold") if "folds" in summary else counted(len(summary["seeds"]), "repetition")
    )
    caption = f"Mean over classes, ± standard deviation over {over}"
    parts.append(Table(caption, ["", *map(formatting.heading, metrics)], rows))
    parts += gains(summary, metrics)
    more = [*formatting.lower_is_better(metrics), *formatting.remarks(metrics), summary["how"], summary["rule"]]
    parts.append(Folded("How the numbers are computed", [Text(line) for line in more]))
    return parts


def _tone(summary: Mapping[str, Any]) -> Tone:
    """Good or bad only if the interval of the first metric excludes 0: over draws, or of folds over patients."""
    metrics, difference = formatting.read_metrics(summary["metrics"]), summary["difference"]
    metric = next(metric for metric in metrics if not ("folds" in summary and metric.pooled))
    known = difference[metric.name]
    interval = known["over_patients"]["ci95"] if "folds" in summary else known["ci95"]
    if not interval or interval[0] <= 0 <= interval[1]:
        return "fair"
    return "good" if (interval[0] > 0) == metric.higher_is_better else "bad"


def _cases(record: Record) -> list[Part]:
    parts: list[Part] = []
    for arm, names in repetitions(record).items():
        found = ends([record.folder / name / CASES for name in names])
        galleries = [_gallery(f"{end.capitalize()} test scans, {arm}", each) for end, each in found.items() if each]
        if galleries and not parts:
            parts += [*_legend(record), *galleries]
        elif galleries:
            parts.append(Folded(f"The same of {arm}", galleries))
    return parts


def _legend(record: Record) -> list[Part]:
    names = record.summary.get("classes") or []
    if not names:
        return []
    return [Swatches([*zip(names, colours(len(names)), strict=True), ("truth (line)", "#ffffff")])]


def _gallery(caption: str, cases: Sequence[tuple[Picture, Mapping[str, Any]]]) -> Gallery:
    pictures = []
    for picture, about in cases:
        (metric,) = formatting.read_metrics([about["metric"]])
        score = f"{formatting.title(metric)} {formatting.number(metric, about['score'])}"
        caption_of_one = f"{about['scan']}: {score}; {about['shows']}"
        pictures.append(Picture(picture.data, picture.alt, caption_of_one, picture.width, picture.height))
    return Gallery(caption, pictures)


def training_curves(record: Record) -> list[Part]:
    """The losses of all repetitions, and what validation scans scored."""
    return _curves(record, {"fine-tuning/loss": "Loss", "validation": "Score on validation scans"})


def _curves(record: Record, titles: Mapping[str, str]) -> list[Part]:
    """What all repetitions have logged under these keys, a chart each."""
    logs = {name: MetricLog(record.folder / name / METRICS) for names in repetitions(record).values() for name in names}
    parts: list[Part] = []
    for key, title in titles.items():
        series = [
            Series(name, log.series(key), colour(number), "dashed" if i % 2 else "line")
            for number, names in enumerate(repetitions(record).values())
            for i, name in enumerate(names)
            for log in [logs[name]]
        ]
        known = [one for one in series if one.points]
        if known:
            ends = "; ".join(f"{one.name} ends at {list(one.points.values())[-1]:.4g}" for one in known)
            parts.append(curves(title, known, "step", title.lower(), f"{title} by step: {ends}."))
    return parts


def _unlabelled(record: Record) -> list[Part]:
    """What was learned from without labels, and the labels that the networks gave it."""
    told = record.summary.get("unlabelled")
    if not told:
        return []
    trained = {
        arm: [one.get("pseudo_labels") for one in each] for arm, each in record.summary.get("training", {}).items()
    }
    judged = {arm: [one for one in each if one] for arm, each in trained.items()}
    warnings = dict.fromkeys(text for each in judged.values() for one in each for text in one["warnings"])
    parts: list[Part] = [Text(f"{text}.", "bad") for text in (*told.get("doubts", ()), *warnings)]
    facts = [("method", str(told["semi"])), ("scans", str(told["scans"])), ("slices", str(told["slices"]))]
    facts.append(("scans of validation or test patients that were left out", str(told["held_out"])))
    facts += [(f"scans of {part} patients among them", str(told[f"{part}_seen"])) for part in ("validation", "test")]
    parts.append(Facts(facts))
    parts += [_shares(arm, each) for arm, each in judged.items() if each]
    return [*parts, *_curves(record, {"semi/sure": "Share of the pixels that are sure"})]


def _shares(arm: str, judged: Sequence[Mapping[str, Any]]) -> Table:
    """How the classes are shared out in the labelled slices, and at the end in the unlabelled ones."""
    columns = {"labelled pixels": "labelled", "answers": "answers", "sure answers": "shares"}
    rows = [
        [name, *(f"{100 * sum(one[key][name] for one in judged) / len(judged):.2f}" for key in columns.values())]
        for name in judged[0]["labelled"]
    ]
    return Table(f"Share of each class in % of all pixels, {arm}", ["class", *columns], rows)


def _transfer(record: Record) -> list[Part]:
    told = record.read(TRANSFER)
    if not told:
        return [Text("From scratch: nothing was transferred.")]
    share = ", ".join(f"{part} {100 * value:.4g} %" for part, value in told["share"].items() if value is not None)
    facts = [("from", str(told["source"])), ("loaded", f"{told['loaded']} tensors ({share})")]
    if before := told.get("pretraining"):
        facts += [
            ("tasks", "  ".join(before.get("tasks", []))),
            ("pre-trained for", counted(before.get("step", 0), "step")),
        ]
    if told.get("fingerprint") is not None:
        facts.append(("same answer to a test image", f"differs by {told['fingerprint']:.1e}"))
    kinds = ("missing", "mismatched", "skipped", "fresh", "unwanted")
    lists = [
        Folded(f"{kind} ({len(told[kind])})", [Text(str(name)) for name in told[kind][:100]])
        for kind in kinds
        if told.get(kind)
    ]
    return [Facts(facts), *lists]


def _data(record: Record) -> list[Part]:
    summary, options = record.summary, record.options
    data = options.get("data", "")
    facts = [("data", "  ".join(data) if isinstance(data, list) else str(data)), ("head", str(options.get("head", "")))]
    if not summary:
        return [Facts(facts)]
    scans = summary["scans"]
    if "folds" in summary:
        facts.append(("folds", f"{len(summary['folds'])}, each in a folder of its own, with a report"))
    else:
        seconds = [one["seconds"] for trainings in summary["training"].values() for one in trainings]
        facts += [
            ("training scans", ", ".join(map(str, scans["train"]))),
            ("training slices", ", ".join(map(str, summary["training_slices"]))),
            ("validation scans", str(scans["validation"])),
            ("training and test of one network", duration(sum(seconds) / len(seconds))),
        ]
    facts.append(("test scans", str(scans["test"])))
    if (seen := scans.get("test_seen_in_pretraining")) is not None:
        facts.append(("test scans seen in pre-training, without labels", str(seen)))
    notes = [*(f"{item['scan']}: {item['reason']}" for item in scans["skipped"]), *scans["notes"]]
    more = (
        [Folded(f"Notes and skipped scans ({len(notes)})", [Text(str(note)) for note in notes[:200]])] if notes else []
    )
    return [Facts(facts), *more]
