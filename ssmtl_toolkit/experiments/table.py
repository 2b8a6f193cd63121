"""The table of an experiment: ours beside published values, and the gain over the same network from scratch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.files import replacing
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.evaluation import statistics
from ssmtl_toolkit.experiments.definition import Job, Matrix

HOW = (
    "Ours: mean ± standard deviation over repetitions of the fine-tuning, each with training slices of its own, which "
    "all rows share; one pre-training. Gain: difference to the row from scratch with the same network, slices and "
    "steps, paired by repetition, and its 95 % interval (Student's t over repetitions; none with fewer than "
    f"{statistics.LEAST_REPETITIONS})."
)
"""How the numbers of a table are made."""

_MEAN = {"iou": "mIoU", "psnr": "PSNR"}
_LOADED = {"source", "split", "seeds", "freeze", "encoder_lr", "decoder_lr", "min_transfer"}
"""Options of fine-tuning in which a row may differ from the one from scratch that it is compared with."""
_ALSO = {"dice": "Dice", "hd95": "HD95, mm", "surface_dice": "surface Dice", "ssim": "SSIM"}


def compare(matrix: Matrix, found: Mapping[str, Mapping[str, Any]], apart: Sequence[str] = ()) -> dict[str, Any]:
    """Put the rows together; `found` holds for each job what its runs say of themselves, or why it failed.

    `apart` adds to what makes published values not comparable.
    """
    rows = [_row(job, found[job.id]) for job in matrix.jobs]
    for job, row in zip(matrix.jobs, rows, strict=True):
        scratch = next((r for j, r in zip(matrix.jobs, rows, strict=True) if _is_scratch_of(j, job)), None)
        row["gain"] = _gain(row, scratch) if scratch else None
    done = [row for row in rows if row["columns"]]
    ours = list(dict.fromkeys(column for row in done for column in row["columns"]))
    published = list(dict.fromkeys(column for row in rows for column in row["published"]))
    metric = _metric(matrix.jobs[0])
    because = [*matrix.apart, *apart]
    return {
        "experiment": matrix.name,
        "title": matrix.experiment.title,
        "data": str(matrix.dataset),
        "comparable": not because,
        "not_comparable_because": because,
        "metric": metric,
        "mean": _MEAN[metric],
        "columns": [*ours, *(column for column in published if column not in ours)],
        "rows": rows,
        "how": HOW,
    }


def _is_scratch_of(scratch: Job, job: Job) -> bool:
    ours, theirs = (one.finetune.model_dump(mode="json", exclude=_LOADED) for one in (job, scratch))
    return ours == theirs and scratch.pretrain is None and job.pretrain is not None


def _metric(job: Job) -> str:
    return "iou" if job.output == "labels" else "psnr"


def _row(job: Job, found: Mapping[str, Any]) -> dict[str, Any]:
    tuned, run = found["finetune"], found["pretrain"]
    status = "failed" if found["failed"] else "done" if len(tuned.get("seeds", ())) >= job.finetune.seeds else "missing"
    row: dict[str, Any] = {
        "id": job.id,
        "name": job.name,
        "status": status,
        "reason": found["failed"],
        "epochs": job.snapshot,
        "published": dict(job.published),
        "columns": {},
        "metric": _metric(job),
    }
    if status != "done":
        return row
    arm = "scratch" if job.pretrain is None else "pretrained"
    scores, seeds = tuned["arms"][arm], job.finetune.seeds
    metric = _metric(job)
    values = {label: one[metric]["values"] for label, one in scores.get("classes", {}).items()}
    values[_MEAN[metric]] = scores[metric]["values"]
    columns = {column: statistics.spread(numbers[:seeds]) for column, numbers in values.items()}
    for column, one in columns.items():
        known, mean = job.published.get(column), one["mean"]
        one |= {"published": known, "difference": None if known is None or mean is None else mean - known}
    return row | {
        "columns": columns,
        "also": {name: statistics.spread(scores[name]["values"][:seeds]) for name in _ALSO if name in scores},
        "input": scores.get("noisy", {}).get(metric),
        "test_scans": tuned["scans"]["test"],
        "training_slices": tuned["training_slices"][:seeds],
        "finetune": {"folder": tuned["run"], "training": tuned["training"][arm][:seeds]},
        "pretrain": {"folder": run["run"], "steps": run["steps"], "seconds": run["seconds"]} if run else None,
    }


def _gain(row: Mapping[str, Any], scratch: Mapping[str, Any]) -> dict[str, Any] | None:
    if not (row["columns"] and scratch["columns"]):
        return None
    mean = _MEAN[row["metric"]]
    ours, theirs = (one["columns"][mean]["values"] for one in (row, scratch))
    number = min(len(ours), len(theirs))
    return {"over": scratch["id"], **statistics.paired(ours[:number], theirs[:number])}


def headings(summary: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Column headings of the table of means and of that by class."""
    published = "published" if summary["comparable"] else "published*"
    mean = summary["mean"]
    also = [_ALSO[name] for name in _also(summary)]
    has = any(row["published"] for row in summary["rows"])
    first = ["", mean, *([published, "difference"] if has else []), "gain over scratch", "95 % interval", *also]
    classes = [column for column in summary["columns"] if column != mean]
    return first, ["", *(classes if len(classes) > 1 else [])]


def _also(summary: Mapping[str, Any]) -> list[str]:
    there = {name for row in summary["rows"] for name in row.get("also", ())}
    return [name for name in _ALSO if name in there]


def lines(summary: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """The cells of both tables, row by row."""
    mean = summary["mean"]
    has = any(row["published"] for row in summary["rows"])
    first, second = [], []
    for row in summary["rows"]:
        metric = summary["metric"]
        one, gain = row["columns"].get(mean), row.get("gain")
        ours = _spread(one, metric) if one else row["status"]
        known = row["published"].get(mean)
        cells = [row["name"], ours]
        if has:
            cells += [_number(known, metric), _number(one["difference"], metric, sign=True) if one else "-"]
        cells += [_spread(gain, metric, sign=True) if gain else "", _interval(gain["ci95"], metric) if gain else ""]
        first.append([*cells, *(_spread(row["also"][n], n) if "also" in row else "" for n in _also(summary))])
        by_class = []
        for column in headings(summary)[1][1:]:
            known = row["published"].get(column)
            shown = _spread(row["columns"][column], metric) if column in row["columns"] else "-"
            by_class.append(shown if known is None else f"{shown} ({_number(known, metric)})")
        second.append([row["name"], *by_class])
    return first, second


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What must be said with the table."""
    said = [HOW]
    if not summary["comparable"] and any(row["published"] for row in summary["rows"]):
        because = ", ".join(summary["not_comparable_because"])
        said.insert(0, f"* Published values are NOT COMPARABLE with ours here: {because}.")
    noisy = next((row["input"] for row in summary["rows"] if row.get("input") is not None), None)
    if noisy is not None:
        said.append(f"The noisy input itself has a PSNR of {noisy:.2f}.")
    said += [f"{row['name']}: failed: {row['reason']}" for row in summary["rows"] if row["status"] == "failed"]
    return said


def _number(value: float | None, metric: str, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:{'+' if sign else ''}.{2 if metric in {'psnr', 'hd95'} else 3}f}"


def _spread(found: Mapping[str, Any], metric: str, sign: bool = False) -> str:
    deviation = "" if found["sd"] is None else f" ± {_number(found['sd'], metric)}"
    return _number(found["mean"], metric, sign) + deviation


def _interval(ends: Sequence[float] | None, metric: str) -> str:
    return "-" if ends is None else f"{_number(ends[0], metric, True)} to {_number(ends[1], metric, True)}"


def markdown(summary: Mapping[str, Any]) -> str:
    """Both tables and the remarks as Markdown."""
    parts = [f"# {_cell(summary['title'] or summary['experiment'])}", f"Data: `{summary['data']}`"]
    for heads, rows in zip(headings(summary), lines(summary), strict=True):
        if len(heads) > 1:
            parts.append("\n".join(["| " + " | ".join(map(_cell, cells)) + " |" for cells in [heads, *rows]]))
            head, _, body = parts[-1].partition("\n")
            parts[-1] = f"{head}\n|{'---|' * len(heads)}\n{body}"
    if any(row["published"] for row in summary["rows"]) and len(headings(summary)[1]) > 1:
        parts.append("By class: ours (published).")
    return "\n\n".join([*parts, *remarks(summary)]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def table_csv(summary: Mapping[str, Any]) -> str:
    """A line for each row and column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "name", "column", "mean", "sd", "n", "published", "difference", "comparable"])
    for row in summary["rows"]:
        for column in summary["columns"]:
            one = row["columns"].get(column, {})
            numbers = [one.get(key) for key in ("mean", "sd", "n")]
            known = row["published"].get(column)
            name = f"'{row['name']}" if row["name"].startswith(("=", "+", "-", "@")) else row["name"]
            writer.writerow(
                [row["id"], name, column, *numbers, known, one.get("difference"), summary["comparable"]],
            )
    return stream.getvalue()


def write_comparison(out: Path, name: str, summary: dict[str, Any], toml: str) -> None:
    """Write NAME.toml (the experiment, resolved), .md, .csv, .json, and .svg where rows are snapshots.

    Raises:
        SsmtlError: the disk is full or not writable.
    """
    points = [row for row in summary["rows"] if row["epochs"] is not None and row["columns"]]
    drawn = bool(points and find_spec("matplotlib"))
    if points and not drawn:
        summary["figure"] = "the figure is not drawn: pip install 'ssmtl-toolkit[plots]'"
    texts = {"toml": toml, "md": markdown(summary), "csv": table_csv(summary), "json": json.dumps(summary, indent=1)}
    texts |= {"svg": figure(summary)} if drawn else {}
    try:
        for suffix, text in texts.items():
            with replacing(out / f"{name}.{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SsmtlError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def figure(summary: Mapping[str, Any]) -> str:
    """Score against epochs of pre-training, with error bars; from scratch as a broken line. Returns SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    mean, curves = summary["mean"], dict[str, list[Any]]()
    for row in summary["rows"]:
        if row["epochs"] is not None and row["columns"] and row["columns"][mean]["mean"] is not None:
            curves.setdefault(row["id"].partition("@")[0], []).append(row)
    drawn = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = drawn.add_subplot()
    for rows in curves.values():
        scores = [row["columns"][mean] for row in rows]
        deviations = [one["sd"] or 0.0 for one in scores]
        label = rows[0]["name"].partition(",")[0]
        epochs = [row["epochs"] for row in rows]
        axes.errorbar(epochs, [one["mean"] for one in scores], deviations, marker="o", capsize=3, label=label)
        over = rows[0]["gain"] and next(row for row in summary["rows"] if row["id"] == rows[0]["gain"]["over"])
        if over and over["columns"][mean]["mean"] is not None:
            axes.axhline(over["columns"][mean]["mean"], ls="--", color="gray", label=over["name"])
    axes.set(xlabel="epochs of pre-training", ylabel=f"{mean} (test scans)", title=summary["title"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "ssmtl", "svg.fonttype": "none"}):
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
