"""The tables of docs/results.md on the levers of a fine-tuning, made of the lines that levers.py has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from levers import PRECISION, PRETEXTS

from ssmtl_toolkit.evaluation.statistics import paired

DOCS = Path(__file__).parent.parent / "docs" / "results.md"
Lines = Sequence[Mapping[str, Any]]


def write(lines: Lines) -> None:
    """Put the tables between their marks."""
    ours = of(lines, PRECISION)
    for name, table in (("budgets", budgets(ours)), ("levers", levers(ours)), ("precisions", precisions(lines))):
        fill(f"levers.py: {name}", table)
    print(f"{len(lines)} trainings")


def fill(name: str, table: str) -> None:
    """Put a table between its marks in the docs."""
    start, end = f"<!-- made by benchmarks/{name} -->", "<!-- end -->"
    text = DOCS.read_text(encoding="utf-8")
    before, mark, rest = text.partition(start)
    if not mark:
        raise SystemExit(f"{DOCS}: has no line {start!r}")
    _, _, after = rest.partition(end)
    DOCS.write_text(f"{before}{mark}\n\n{table}\n\n{end}{after}", encoding="utf-8")


class Scores:
    """The scores of trainings, by draw."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def of(self, metric: str, draws: Sequence[int] | None = None, **wanted: Any) -> dict[int, float]:
        """Draw -> the mean over the networks (and pre-trainings) that were trained on it; of all draws or of these."""
        by_draw: dict[int, list[float]] = {}
        for line in self.lines:
            if draws is not None and line["draw"] not in draws:
                continue
            if all(line[key] == value for key, value in wanted.items()) and line.get(metric) is not None:
                by_draw.setdefault(line["draw"], []).append(float(np.mean(line[metric])))
        return {draw: float(np.mean(values)) for draw, values in sorted(by_draw.items())}

    def together(self, **wanted: Any) -> dict[int, float]:
        """Draw -> the mIoU of the networks of one draw together."""
        chosen = [line for line in self.lines if all(line[k] == v for k, v in wanted.items())]
        return {line["draw"]: line["ensemble"]["iou"] for line in chosen if "ensemble" in line}


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """`+0.045 (+0.012 to +0.078), 5/5`: mean, 95 % interval over draws that both have, and how many are higher."""
    draws = sorted(ours.keys() & theirs.keys())
    if not draws:
        return "-"
    told = paired([ours[draw] for draw in draws], [theirs[draw] for draw in draws])
    up = sum(ours[draw] > theirs[draw] for draw in draws)
    interval = "" if told["ci95"] is None else " ({:+.3f} to {:+.3f})".format(*told["ci95"])
    return f"{told['mean']:+.3f}{interval}, {up}/{len(draws)}"


def spread(values: Mapping[int, float], digits: int = 3) -> str:
    """`0.512 ± 0.034` over draws."""
    numbers = list(values.values())
    if not numbers:
        return "-"
    sd = f" ± {np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.{digits}f}{sd}"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (headings, ["---"] * len(headings), *rows))


def budgets(lines: Lines) -> str:
    """Paper recipe and strong recipe, from scratch and pre-trained, by data set and number of labels."""
    scores, rows = Scores(lines), []
    for data, budget in dict.fromkeys((line["data"], line["budget"]) for line in lines):
        at = {"data": data, "budget": budget}
        paper, strong = (scores.of("iou", **at, recipe=recipe, pretext=None) for recipe in ("paper", "strong"))
        ours = [scores.of("iou", **at, recipe="strong", pretext=pretext) for pretext in PRETEXTS]
        old = scores.of("iou", **at, recipe="paper", pretext="±t")
        gains = [(strong, paper), (old, paper), *((one, strong) for one in ours)]
        rows.append([data, budget, *map(spread, (paper, strong, *ours)), *(difference(*both) for both in gains)])
    headings = ["set", "labels", "scratch, paper", "scratch, strong", *(f"{name}, strong" for name in PRETEXTS)]
    headings += ["strong - paper, scratch", "±t - scratch, paper", *(f"{name} - scratch, strong" for name in PRETEXTS)]
    return markdown(headings, sorted(rows))


def precisions(lines: Lines) -> str:
    """What bf16 changes: scores of the trainings that were done in both, by data set."""
    rows, scores = [], {precision: Scores(of(lines, precision)) for precision in ("32", "bf16")}
    for data in sorted({line["data"] for line in lines}):
        both: tuple[list[float], list[float]] = ([], [])
        for line in of(lines, "32"):
            at = {key: line[key] for key in ("data", "budget", "recipe", "pretext", "seed", "draw")}
            twin = scores["bf16"].of("iou", **at)
            if at["data"] == data and twin:
                both[0].append(float(np.mean(line["iou"])))
                both[1].append(*twin.values())
        if both[0]:
            numbered = [dict(enumerate(values)) for values in both]
            rows.append([data, str(len(both[0])), *map(spread, numbered), difference(*reversed(numbered))])
    return markdown(["set", "trainings", "float32", "bf16", "bf16 - float32"], rows)


def of(lines: Lines, precision: str) -> Lines:
    """The lines of this precision."""
    return [line for line in lines if line["precision"] == precision]


def levers(lines: Lines) -> str:
    """Each lever by itself, with one labelled patient: from scratch and after SSMTL."""
    scores, rows = Scores(lines), []
    recipes = list(dict.fromkeys(line["recipe"] for line in lines))
    for data in sorted({line["data"] for line in lines}):
        for start, pretext in (("scratch", None), ("±t", "±t")):
            for recipe in recipes:
                at = {"data": data, "budget": "1 patient", "recipe": recipe, "pretext": pretext}
                base = {**at, "recipe": "strong" if recipe.startswith("strong") else "paper"}
                values = scores.of("iou", **at)
                if not values:
                    continue
                gain = "" if recipe in ("paper", "strong") else difference(values, scores.of("iou", **base))
                more = [spread(scores.of(metric, **at), digits) for metric, digits in (("dice", 3), ("hd95", 1))]
                minutes = spread(scores.of("minutes", **at), 1)
                rows.append([data, start, recipe, spread(values), gain, *more, minutes])
                if together := scores.together(**at):
                    gain = difference(together, values)
                    rows.append([data, start, "the 3 networks together", spread(together), gain, "", "", ""])
    return markdown(["set", "start", "recipe", "mIoU", "against its base", "Dice", "HD95 (mm)", "minutes"], rows)
