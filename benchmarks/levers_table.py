"""The tables of docs/results.md on the levers of a fine-tuning, made of the lines that levers.py has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from levers import PRECISION

from ssmtl_toolkit.evaluation.crossed import crossed, rectangle

ROOT = Path(__file__).parent.parent
DOCS, README = ROOT / "docs" / "results.md", ROOT / "README.md"
NAMES = {"chaos": "CHAOS, abdomen", "hippocampus": "hippocampus", "sunnybrook": "Sunnybrook, heart"}
UNIMATCH = "strong + UniMatch"
ALL = "all three"
SSMTL = ("±t", "±t + contrast")
Lines = Sequence[Mapping[str, Any]]


def write(lines: Lines) -> None:
    """Put the tables between their marks."""
    ours = of(lines, precision=PRECISION)
    tables = {"budgets": budgets, "levers": levers, "unlabelled": unlabelled, "pre-trainings": pretrainings}
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


Draw = tuple[str, int]
"""The data set and which draw of its labels."""
Values = Mapping[tuple[Draw, int | None], float]
"""Scores by draw and seed of the pre-training; None: from scratch."""


class Scores:
    """The scores of trainings."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def of(self, metric: str, **wanted: Any) -> Values:
        """For each draw and pre-training the mean over its networks; `data=ALL`: of all sets."""
        chosen = [line for line in self._chosen(wanted) if line.get(metric) is not None]
        return {_key(line): float(np.mean(line[metric])) for line in chosen}

    def together(self, **wanted: Any) -> Values:
        """The mIoU of the networks of one draw together."""
        scored = [line for line in self._chosen(wanted) if "ensemble" in line]
        return {_key(line): float(line["ensemble"]["iou"]["mean"]) for line in scored}

    def _chosen(self, wanted: Mapping[str, Any]) -> Lines:
        """The lines that have these values."""
        return of(self.lines, **{key: value for key, value in wanted.items() if value != ALL})


def everywhere(scores: Scores, at: Mapping[str, Any]) -> bool:
    """Whether there are as many draws of it on each set."""
    numbers = {len(by_draw(scores.of("iou", **{**at, "data": data}))) for data in NAMES}
    return len(numbers) == 1 and numbers != {0}


def _key(line: Mapping[str, Any]) -> tuple[Draw, int | None]:
    """What the scores of a line stand under."""
    return (line["data"], line["draw"]), line["seed"]


def of(lines: Lines, **wanted: Any) -> Lines:
    """The lines that have these values."""
    return [line for line in lines if wanted.items() <= line.items()]


def by_draw(values: Values) -> dict[Draw, float]:
    """The mean over pre-trainings of each draw."""
    draws = sorted({draw for draw, _ in values})
    return {draw: float(np.mean([v for (one, _), v in values.items() if one == draw])) for draw in draws}


def difference(ours: Values, theirs: Values, digits: int = 3) -> str:
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
    interval = "" if told["ci95"] is None else f" ({told['ci95'][0]:+.{digits}f} to {told['ci95'][1]:+.{digits}f})"
    return f"{told['mean']:+.{digits}f}{interval}, {told['up']}/{told['draws']}"


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
        ours = [scores.of("iou", **at, recipe="strong", pretext=pretext) for pretext in SSMTL]
        old = scores.of("iou", **at, recipe="paper", pretext="±t")
        gains = [(strong, paper), (old, paper), *((one, strong) for one in ours)]
        rows.append([data, budget, *map(spread, (paper, strong, *ours)), *(difference(*both) for both in gains)])
    headings = ["set", "labels", "scratch, paper", "scratch, strong", *(f"{name}, strong" for name in SSMTL)]
    headings += ["strong - paper, scratch", "±t - scratch, paper", *(f"{name} - scratch, strong" for name in SSMTL)]
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
    """What unlabelled scans add by UniMatch."""
    scores, rows = Scores(lines), []
    chosen = sorted({(line["data"], line["budget"]) for line in lines if line["recipe"] == UNIMATCH})
    whole = [(ALL, budget) for budget in dict.fromkeys(budget for _, budget in chosen)]
    for data, budget in [*chosen, *whole]:
        at = {"data": data, "budget": budget, "pretext": None}
        if data == ALL and not everywhere(scores, {**at, "recipe": UNIMATCH}):
            continue
        strong, taught = (scores.of("iou", **at, recipe=recipe) for recipe in ("strong", UNIMATCH))
        more = [
            difference(*(scores.of(metric, **at, recipe=recipe) for recipe in (UNIMATCH, "strong")), digits)
            for metric, digits in (("iou", 3), ("dice", 3), ("hd95", 1))
        ]
        rows.append([data, budget, *map(spread, (strong, taught)), *more])
    headings = ["set", "labels", "scratch, strong", "with UniMatch"]
    return markdown([*headings, "gain", "gain of Dice", "change of HD95 (mm)"], rows)


def pretrainings(lines: Lines) -> str:
    """What each pre-training adds to the same fine-tuning from scratch."""
    scores, rows = Scores(lines), list[list[str]]()
    trained = [line for line in lines if line["pretext"] and line["recipe"].startswith("strong")]
    for recipe, start in dict.fromkeys((line["recipe"], line["pretext"]) for line in trained):
        arm = of(trained, recipe=recipe, pretext=start)
        whole = list[str]()
        for budget in dict.fromkeys(line["budget"] for line in arm):
            at = {"recipe": recipe, "budget": budget}
            where = sorted({line["data"] for line in of(arm, budget=budget)})
            if everywhere(scores, {**at, "pretext": start}):
                whole.append(budget)
                where.append(ALL)
            rows += [_gain(scores, {"recipe": recipe, "data": data}, start, [budget]) for data in where]
        if len(whole) > 1:
            rows.append(_gain(scores, {"recipe": recipe, "data": ALL}, start, whole))
    return markdown(
        ["recipe", "start", "pre-trainings", "labels", "set", "scratch", "pre-trained", "gain", "of Dice"], rows
    )


def _gain(scores: Scores, at: Mapping[str, Any], start: str, budgets: Sequence[str]) -> list[str]:
    """One row: with several budgets, each draw's mean over them."""

    def both(metric: str) -> tuple[Values, Values]:
        ours, twin = (
            _mean([scores.of(metric, **at, budget=budget, pretext=pretext) for budget in budgets])
            for pretext in (start, None)
        )
        return ours, twin

    ours, twin = both("iou")
    same = {key: score for key, score in twin.items() if key[0] in by_draw(ours)}
    told = [spread(same), spread(ours), difference(ours, twin), difference(*both("dice"))]
    return [at["recipe"], start, str(len({seed for _, seed in ours})), " and ".join(budgets), at["data"], *told]


def _mean(tables: Sequence[Values]) -> Values:
    """The mean of what is in all of them."""
    keys = set.intersection(*(set(table) for table in tables))
    return {key: float(np.mean([table[key] for table in tables])) for key in keys}


def precisions(lines: Lines) -> str:
    """What bf16 changes: scores of the trainings that were done in both, by data set."""
    rows, scores = [], {precision: Scores(of(lines, precision=precision)) for precision in ("32", "bf16")}
    for data in sorted({line["data"] for line in lines}):
        both: tuple[dict[tuple[Draw, int | None], float], ...] = ({}, {})
        for number, line in enumerate(of(lines, precision="32", data=data)):
            at = {key: line[key] for key in ("data", "budget", "recipe", "pretext", "seed", "draw")}
            if twin := scores["bf16"].of("iou", **at):
                training = ((data, number), None)
                both[0][training], both[1][training] = float(np.mean(line["iou"])), *twin.values()
        if both[0]:
            rows.append([data, str(len(both[0])), *map(spread, both), difference(*reversed(both))])
    return markdown(["set", "trainings", "float32", "bf16", "bf16 - float32"], rows)


def levers(lines: Lines) -> str:
    """Each lever by itself, with one labelled patient: from scratch and after SSMTL."""
    scores, rows = Scores(lines), []
    recipes = list(dict.fromkeys(line["recipe"] for line in lines))
    for data in [*sorted({line["data"] for line in lines}), ALL]:
        for start, pretext in (("scratch", None), ("±t", "±t")):
            for recipe in recipes:
                at = {"data": data, "budget": "1 patient", "recipe": recipe, "pretext": pretext}
                if data == ALL and not everywhere(scores, at):
                    continue
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
