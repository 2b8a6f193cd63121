"""How the models of all repetitions do together: the test of their ensembles at the end of a fine-tuning."""

from __future__ import annotations

from typing import Any

from ssmtl_toolkit.data.files import write_json
from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.downstream.ensemble import Member
from ssmtl_toolkit.downstream.model import TODO, Downstream, ModelSpec, Predictor
from ssmtl_toolkit.downstream.repetition import Arm, Repetitions
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.checkpoint import check_tensors
from ssmtl_toolkit.runtime.folder import ENSEMBLE, MODEL


def assess_ensembles(done: Repetitions) -> dict[str, dict[str, Any]]:
    """Score the test scans with all models of each arm together, as `predict` uses them.

    Returns:
        For each arm `models`, which they are, and `scores`, those of the test scans; nothing of one repetition alone.
    """
    return {arm: _assess(done, arm) for arm in done.arms} if len(done.seeds) > 1 else {}


def _assess(done: Repetitions, arm: Arm) -> dict[str, Any]:
    """Score one ensemble, unless that is done for the same models and scans."""
    read = [weights.read(done.folder / f"{arm}-{seed}" / MODEL, TODO) for seed in done.seeds]
    config, test = done.config, done.material.test
    identity = {
        "models": [Member(one.file, one.digest).to_json() for one in read],
        "test": [scan.name for scan in test],
        "metrics": [metric.full() for metric in done.metrics],
    }
    file = done.folder / ENSEMBLE.format(arm)
    kept = read_result(file, "scores")
    if {key: kept.get(key) for key in identity} == identity:
        return kept
    done.progress.say(f"{arm}, ensemble of {len(read)} models")
    models = [_restored(done.model_spec, one) for one in read]
    predictor = Predictor(done.model_spec, models, done.fabric, config.batch_size)
    content = {**identity, "scores": done.material.targets.assess(predictor, test, done.metrics)}
    write_json(file, content)
    return content


def _restored(model_spec: ModelSpec, read: weights.Weights) -> Downstream:
    """The model with its weights; unlike in `ModelSpec.restore`, its parts need not be installed ones."""
    model = model_spec.build()
    check_tensors(read.file, read.tensors, model.state_dict())
    model.load_state_dict(read.tensors)
    return model
