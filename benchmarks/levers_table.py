"""The tables of docs/results.md on the levers of a fine-tuning, made of the lines that levers.py has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from levers import PRECISION, PRETEXTS

from ssmtl_toolkit.evaluation.crossed import crossed, rectangle

ROOT = Path(__file__).parent.parent
DOCS, README = ROOT / "docs" / "results.md", ROOT / "README.md"
NAMES = {"chaos": "CHAOS, abdomen", "hippocampus": "hippocampus", "sunnybrook": "Sunnybrook, heart"}
UNIMATCH = "strong + UniMatch"
Lines = Sequence[Mapping[str, Any]]


def write(lines: Lines) -> None:
    """Put the tables between their marks."""
    ours = of(lines, PRECISION)
    tables = {"budgets": budgets, "levers": levers, "unlabelled": unlabelled}
    for name, table in tables.items():
        fill(f"levers.py: {name}", table(ours))
    fill("levers.py: precisions", precisions(lines))
    fill("levers.py: readme", one_patient(ours), README)
    print(f"{len(lines)} trainings")


END = "<!-- end -->"


def fill(name: str, table: str, document: Path = DOCS) -> None:
    """Put a table between its marks in a document."""
    before, _, after = _parts(name, document)
    document.write_text(f"{before}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def filled(name: str, document: Path = DOCS) -> str:
    """What is between the marks."""
    return _parts(name, document)[1]


def _parts(name: str, document: Path) -> tuple[str, str, str]:
    """A document up to the first mark, between the marks, and behind the last one."""
    before, start, rest = document.read_text(encoding="utf-8").partition(f"<!-- made by benchmarks/{name} -->")
    if not start:
        raise SystemExit(f"{document}: has no line '<!-- made by benchmarks/{name} -->'")
    within, _, after = rest.partition(END)
    return before + start, within, after


Values = Mapping[tuple[int, int | None], float]
"""Scores by draw and seed of the pre-training; None: from scratch."""


class Scores:
    """The scores of trainings."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def of(self, metric: str, **wanted: Any) -> Values:
        """For each draw and pre-training the mean over its networks."""
        return {
            (line["draw"], line["seed"]): float(np.mean(line[metric]))
            for line in self.lines
            if all(line[key] == value for key, value in wanted.items()) and line.get(metric) is not None
        }

    def together(self, **wanted: Any) -> Values:
        """The mIoU of the networks of one draw together."""
        chosen = [line for line in self.lines if all(line[k] == v for k, v in wanted.items())]
        scored = [line for line in chosen if "ensemble" in line]
        return {(line["draw"], line["seed"]): float(line["ensemble"]["iou"]["mean"]) for line in scored}


def by_draw(values: Values) -> dict[int, float]:
    """The mean over pre-trainings of each draw."""
    draws = sorted({draw for draw, _ in values})
    return {draw: float(np.mean([v for (one, _), v in values.items() if one == draw])) for draw in draws}


def difference(ours: Values, theirs: Values) -> str:
    """`+0.045 (+0.012 to +0.078), 5/5`: mean, 95 % interval, and in how many draws it is above 0.

    Draws and pre-trainings that both are crossed (decision 29); where both begin from a pre-training they are paired by
    its seed as well.
    """
    seeds, other = sorted({seed for _, seed in ours}, key=str), {seed for _, seed in theirs}
    twins = {seed: seed if seed in other else next(iter(other), None) for seed in seeds}
    table = [[_minus(ours.get((d, s)), theirs.get((d, twins[s]))) for s in seeds] for d in sorted(by_draw(ours))]
    whole = [rectangle([row[:width] for row in table]) for width in range(1, len(seeds) + 1)]
    rows, columns = max(whole, key=_cells, default=([], []))  # the largest table without a gap
    if not rows:
        return "-"
    told = crossed(np.array([[table[row][column] for column in columns] for row in rows], dtype=float))
    interval = "" if told["ci95"] is None else " ({:+.3f} to {:+.3f})".format(*told["ci95"])
    return f"{told['mean']:+.3f}{interval}, {told['up']}/{told['draws']}"


def _cells(table: tuple[list[int], list[int]]) -> int:
    return len(table[0]) * len(table[1])


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def spread(values: Values, digits: int = 3) -> str:
    """`0.512 ± 0.034` over draws."""
    numbers = list(by_draw(values).values())
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


def one_patient(lines: Lines) -> str:
    """One labelled patient, for readers in a hurry: both recipes from scratch, and what is added to the strong one."""
    scores, rows = Scores(lines), []
    for data, name in NAMES.items():
        at = {"data": data, "budget": "1 patient"}
        plain, strong = (scores.of("iou", **at, recipe=recipe, pretext=None) for recipe in ("paper", "strong"))
        trained = scores.of("iou", **at, recipe="strong", pretext="±t")
        taught = scores.of("iou", **at, recipe=UNIMATCH, pretext=None)
        gains = [f"{spread(one)}: {difference(one, strong)}" for one in (trained, taught)]
        rows.append([name, spread(plain), spread(strong), *gains])
    headings = ["mIoU", "`--recipe paper`", "the default recipe", "pre-trained by ±t: gain, draws with a gain"]
    return markdown([*headings, "`--unlabelled` (UniMatch): gain, draws with a gain"], rows)


def unlabelled(lines: Lines) -> str:
    """What unlabelled scans add: by UniMatch, and by pre-training beside it."""
    scores, rows = Scores(lines), []
    chosen = dict.fromkeys((line["data"], line["budget"]) for line in lines if line["recipe"] == UNIMATCH)
    for data, budget in sorted(chosen):
        at = {"data": data, "budget": budget}
        strong, taught = (scores.of("iou", **at, recipe=recipe, pretext=None) for recipe in ("strong", UNIMATCH))
        both = [scores.of("iou", **at, recipe=UNIMATCH, pretext=pretext) for pretext in PRETEXTS]
        gains = [difference(taught, strong), *(difference(one, taught) for one in both)]
        rows.append([data, budget, *map(spread, (strong, taught, *both)), *gains])
    headings = ["set", "labels", "scratch, strong", "with UniMatch", *(f"{name}, with UniMatch" for name in PRETEXTS)]
    headings += ["UniMatch - strong, scratch", *(f"{name} - scratch, with UniMatch" for name in PRETEXTS)]
    return markdown(headings, rows)


def precisions(lines: Lines) -> str:
    """What bf16 changes: scores of the trainings that were done in both, by data set."""
    rows, scores = [], {precision: Scores(of(lines, precision)) for precision in ("32", "bf16")}
    for data in sorted({line["data"] for line in lines}):
        both = [dict[tuple[int, int | None], float](), dict[tuple[int, int | None], float]()]
        for number, line in enumerate(line for line in of(lines, "32") if line["data"] == data):
            at = {key: line[key] for key in ("data", "budget", "recipe", "pretext", "seed", "draw")}
            if twin := scores["bf16"].of("iou", **at):
                both[0][number, None], both[1][number, None] = float(np.mean(line["iou"])), *twin.values()
        if both[0]:
            rows.append([data, str(len(both[0])), *map(spread, both), difference(*reversed(both))])
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
