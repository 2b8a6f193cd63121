"""What a comparison of mixes amounts to: true gains beside cheap scores, and how far these agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmtl_toolkit.evaluation.agreement import LEAST_MIXES, agreement
from ssmtl_toolkit.experiments.affinity.looking import Look
from ssmtl_toolkit.experiments.fewshot.arms import Arm
from ssmtl_toolkit.experiments.fewshot.execution import Comparison

Looks = Mapping[str, Sequence[Mapping[str, Look]]]
"""By mix, the looks at its pre-trainings."""

Table = list[list[float | None]]


@dataclass(frozen=True)
class CheapScore:
    """A score of a mix that costs no fine-tuning; a higher one should mean a larger gain.

    Attributes:
        id: its name in JSON and CSV.
        title: its name in tables and sentences.
        when: at the start or the end of the pre-training.
        key: what it is called in a look.
        digits: decimals to print.
    """

    id: str
    title: str
    when: str
    key: str
    digits: int = 3


SCORES = (
    CheapScore("probe", "probe", "end", "probe"),
    CheapScore("cosine_start", "cosine at the start", "start", "cosine"),
    CheapScore("cosine_end", "cosine at the end", "end", "cosine"),
    CheapScore("lookahead_start", "lookahead at the start", "start", "lookahead", 4),
    CheapScore("lookahead_end", "lookahead at the end", "end", "lookahead", 4),
    CheapScore("effective_rank", "effective rank", "end", "rank", 1),
)
REPEATED = "gain on other draws"
"""The yardstick among the scores: the gains of every second draw, beside those of the others."""


def mixes(comparison: Comparison, summary: Mapping[str, Any], looks: Looks) -> list[dict[str, Any]]:
    """For each mix what is done, its gain over the twin from scratch, and its cheap scores."""
    cells = {cell["method"]: cell for cell in summary["cells"]}
    found = []
    for arm in _mixed(comparison):
        cell = cells[arm.id]
        own = {name: cell[name] for name in ("done", "planned", summary["metric"], "difference", "minutes")}
        scores = {score.id: mean([look[score.when].get(score.key) for look in looks[arm.id]]) for score in SCORES}
        found.append({"mix": arm.id, **own, "scores": scores})
    return found


def agreements(comparison: Comparison, table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How far each cheap score orders the mixes as their gains do; and the gains themselves, on other draws."""
    better = comparison.scores([]).better
    gains = [None if mix["difference"]["mean"] is None else better * mix["difference"]["mean"] for mix in table]
    found = [
        {"score": score.id, "title": score.title, **agreement([mix["scores"][score.id] for mix in table], gains)}
        for score in SCORES
    ]
    found.append({"score": "gain_on_other_draws", "title": REPEATED, **agreement(*_halves(comparison))})
    return [{**each, "sentence": sentence(each)} for each in found]


def _halves(comparison: Comparison) -> tuple[list[float | None], list[float | None]]:
    """The gains of every mix by every second draw, and by the others."""
    scores, (budget,) = comparison.scores(comparison.lines()), comparison.budgets
    by_id = {arm.id: arm for arm in comparison.arms}
    even, odd = list[float | None](), list[float | None]()
    for arm in _mixed(comparison):
        values = scores.better * scores.differences(arm, by_id[arm.twin or arm.id], budget)
        even.append(mean(values[::2].flatten().tolist()))
        odd.append(mean(values[1::2].flatten().tolist()))
    return even, odd


def sentence(found: Mapping[str, Any]) -> str:
    """Say in one sentence whether a score orders the mixes as the true gains do."""
    title, tau, ends = found["title"], found["tau"], found["ci95"]
    if found["n"] < 2:
        return f"{title}: cannot be said: score and gain are known of {found['n'] or 'no'} mix"
    if tau is None:
        return f"{title}: cannot be said: no two mixes differ both in it and in their gain"
    if ends is None:
        return f"{title}: cannot be said from {found['n']} mixes, {LEAST_MIXES} are needed: tau {tau:.2f}"
    value = f"tau {tau:.2f} ({ends[0]:.2f} to {ends[1]:.2f})"
    if ends[0] <= 0 <= ends[1]:
        return f"{title}: cannot be said whether it orders the mixes as the true gains do: {value}"
    how = "as the true gains do" if ends[0] > 0 else "against the true gains"
    return f"{title}: orders the mixes {how}: {value}"


def matrices(comparison: Comparison, looks: Looks) -> dict[str, Any] | None:
    """Tasks by tasks and the segmentation, of the mix of all tasks; means over its pre-trainings."""
    everything = max(_mixed(comparison), key=lambda arm: len(arm.pretrain.tasks) if arm.pretrain else 0)
    own = looks[everything.id]
    labels = [str(task) for task in everything.pretrain.tasks] if everything.pretrain else []
    tables = {
        key: {when: _mean_table([look[when][key] for look in own if key in look[when]]) for when in ("start", "end")}
        for key in ("cosines", "lookaheads")
    }
    known = any(table for by_time in tables.values() for table in by_time.values())
    return {"labels": [*labels, "segmentation"], **tables} if known else None


def _mean_table(tables: Sequence[Table]) -> Table:
    return [[mean(values) for values in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known; None if none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _mixed(comparison: Comparison) -> list[Arm]:
    """The arms that are pre-trained."""
    return [arm for arm in comparison.arms if arm.pretrain]
