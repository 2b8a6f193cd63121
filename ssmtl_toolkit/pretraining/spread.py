"""How far the features of different slices differ at the end of a training."""

from __future__ import annotations

import math

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.sampling import Plan
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.features import PARTS, Feature, parts_of
from ssmtl_toolkit.pretraining.watch import leaving_no_trace, uncompiled

_SLICES = 16  # that are compared, spread evenly over all anchors
_ALIKE = 0.05  # spread of the slices themselves, below which features say nothing


def feature_spreads(
    fabric: Fabric, config: ResolvedRun, model: MultiTask, store: SliceStore, plan: Plan
) -> dict[Feature, float]:
    """`spread` of the pooled and, if trained, of the dense features, in eval mode; {} if slices are all but equal."""
    number = min(_SLICES, config.batch_size, len(plan.anchors))
    rows = plan.anchors[np.linspace(0, len(plan.anchors) - 1, number).astype(np.int64)]
    image = store.gather(torch.from_numpy(rows), fabric.device, store.places(number))
    if spread(image) < _ALIKE:
        return {}
    needs = {feature for task in config.tasks for feature in task.needs}
    with leaving_no_trace(model), uncompiled(config), torch.no_grad(), fabric.autocast():
        model.eval()
        features = model.backbone(image)
        spreads = {PARTS[part]: spread(getattr(features, PARTS[part])) for part in parts_of(needs)}
    return {feature: value for feature, value in spreads.items() if math.isfinite(value)}


def spread(values: Tensor) -> float:
    """Standard deviation over the first dimension, relative to the root mean square; 0: all are the same."""
    values = values.detach().double().cpu()
    size = float(values.square().mean())
    return math.sqrt(float(values.var(dim=0, correction=0).mean()) / size) if size else 0.0
