"""A finished pre-training as modules again: the backbone, and the tasks whose parts were kept."""

from __future__ import annotations

from pathlib import Path

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.about import Pretraining
from ssmtl_toolkit.runtime.checkpoint import check_tensors
from ssmtl_toolkit.runtime.folder import BACKBONE, CONFIG, HEADS

_TODO = "give the folder of a finished ssmtl run"


def load_run(folder: str | Path) -> MultiTask:
    """Make the backbone and the tasks of a run, with the weights of its last step, in eval mode.

    Tasks without pictures have fresh weights: heads.safetensors holds only what draws.

    Raises:
        UsageError: the folder holds no run, or a plugin is missing.
        DataError: a file of weights is damaged, or does not fit.
    """
    place = Path(folder)
    config = RunConfig.of(RunConfig.read(place / CONFIG), str(place / CONFIG)).resolve()
    backbone = weights.read(place / BACKBONE, _TODO)
    with hub(allowed=False):
        model = MultiTask.build(config.backbone, config.tasks, config.balancer, backbone.about(Pretraining).channels)
    check_tensors(backbone.file, backbone.tensors, model.backbone.state_dict())
    model.backbone.load_state_dict(backbone.tensors)
    kept = weights.read(place / HEADS, _TODO).tensors if (place / HEADS).is_file() else {}
    for label, task in zip(model.labels, model.tasks, strict=True):
        own = {k.removeprefix(f"{label}/"): v for k, v in kept.items() if k.startswith(f"{label}/")}
        if own:
            check_tensors(place / HEADS, own, task.state_dict())
            task.load_state_dict(own)
    return model.eval()
