"""The trials of a comparison: each arm at each budget, for every draw of labels and every seed of pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssmtl_toolkit.config import Budget, FewshotConfig
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.experiments.definition import Job
from ssmtl_toolkit.experiments.fewshot.arms import Arm
from ssmtl_toolkit.experiments.fewshot.drawing import draw_patients, draw_slices
from ssmtl_toolkit.experiments.fewshot.gathering import Gathered
from ssmtl_toolkit.experiments.fewshot.weights import start
from ssmtl_toolkit.experiments.runs import Runs


@dataclass(frozen=True)
class Trial:
    """One network that is fine-tuned and tested.

    Attributes:
        arm: the id of its arm.
        draw: which draw of labels, from 0.
        pretraining: which pre-training, from 0; None: it has none, or the same weights in every trial.
    """

    arm: str
    budget: Budget
    draw: int
    pretraining: int | None
    job: Job


def trials_of(
    config: FewshotConfig, budgets: Sequence[Budget], arms: Sequence[Arm], gathered: Gathered, runs: Runs
) -> list[Trial]:
    """All trials, draw by draw, so that what is done first can be compared first."""
    planned = [
        (arm, budget, draw, seed)
        for draw in range(config.draws)
        for budget in budgets
        for arm in arms
        for seed in (range(config.pretrainings) if arm.pretrain else [None])
    ]
    splits = {(budget, draw): _split(config, budget, draw, gathered, runs) for _, budget, draw, _ in planned}
    starts = _starts(arms, gathered.channels, runs.out)
    trials = []
    for number, (arm, budget, draw, seed) in enumerate(planned, start=1):
        where = f"{budget.words}, draw {draw + 1}" + ("" if seed is None else f", pre-training {seed + 1}")
        pretrain = None
        if arm.pretrain is not None and seed is not None:
            pretrain = arm.pretrain.model_copy(update={"data": gathered.pool, "seed": config.seed + seed})
        changes = {"split": splits[budget, draw], "seed": config.seed + draw}
        changes |= {"source": starts[arm.id]} if arm.id in starts else {}
        changes |= {"unlabelled": gathered.pool} if arm.finetune.semi else {}
        job = Job(
            id=f"{arm.id}, {where}",
            name=f"[{number}/{len(planned)}] {arm.name}, {where}",
            pretrain=pretrain,
            snapshot=None,
            finetune=arm.finetune.model_copy(update=changes),
            published={},
        )
        trials.append(Trial(arm.id, budget, draw, seed, job))
    return trials


def _split(config: FewshotConfig, budget: Budget, draw: int, gathered: Gathered, runs: Runs) -> Path:
    """The file with the patients, or slices, that are labelled in this draw."""
    order = draw_patients(gathered.split.train, config.seed, draw)
    if budget.unit == "patients":
        train = tuple(order[: budget.number])
        return runs.write_split(Split(train, (), gathered.scored, gathered.split.pattern))
    places = draw_slices(order, gathered.training, gathered.slices, config.seed, draw)[: budget.number]
    drawn: dict[str, tuple[int, ...]] = {}
    for name, place in places:
        drawn[name] = tuple(sorted((*drawn.get(name, ()), place)))
    patients = {scan.name: scan.patient for scan in gathered.training}
    train = tuple(dict.fromkeys(patients[name] for name in drawn))
    return runs.write_split(Split(train, (), gathered.scored, gathered.split.pattern, (drawn,)))


def _starts(arms: Sequence[Arm], channels: int, out: Path) -> Mapping[str, Path]:
    """By arm, the file of weights that it starts from; raises what `start` does."""
    return {
        arm.id: start(arm.weights, arm.finetune.backbone, channels, out / "weights")
        for arm in arms
        if arm.weights is not None and arm.finetune.backbone is not None
    }
