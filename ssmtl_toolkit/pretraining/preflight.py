"""What is checked before the first step: whether the slices fit on the GPU, and the network on the slices."""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from lightning_fabric import Fabric
from torch.nn.parameter import is_lazy

from ssmtl_toolkit.config import ResolvedRun, RunConfig
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.engine.backbone import Backbone, Features
from ssmtl_toolkit.engine.building import check_used
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.features import PARTS, Feature, Part
from ssmtl_toolkit.foreign import foreign, in_one_line
from ssmtl_toolkit.specs import named

_FEWEST_PLACES = 2  # pixels along a side of the deepest maps: fewer show no places


def goes_on_gpu(store: SliceStore, config: RunConfig, fabric: Fabric) -> bool:
    """Whether the store goes to the GPU: if requested, or if it takes less than a quarter of its free memory."""
    if fabric.device.type != "cuda":
        if config.store == "gpu":
            raise UsageError(f"--store gpu: the run is on {fabric.device}; choose auto, ram or disk")
        return False
    if config.store == "auto":
        free, _ = torch.cuda.mem_get_info(fabric.device)
        return store.slices.nbytes < free // 4
    return config.store == "gpu"


def try_once(model: MultiTask, config: ResolvedRun) -> str:
    """Run the network forward and backward on noise, so that what it cannot handle is reported before training.

    Returns:
        What is worth a note: slices so small for the network that its deepest maps show no places; "": nothing.

    Parameters that no task's features depend on are frozen: Adam has nothing to do there, and DDP would wait for them.

    Raises:
        UsageError: the image size or batch size does not fit.
        SsmtlError: the backbone declares other channels than it returns.
    """
    backbone = model.backbone
    buffers = {name: buffer.clone() for name, buffer in backbone.named_buffers() if not is_lazy(buffer)}
    backbone.train()
    with foreign(named(config.backbone)):
        features = _tried(backbone, config, {feature for task in config.tasks for feature in task.needs})
        _check_channels(named(config.backbone), backbone, features, config.trained)
        note = _too_small(features, config)
    check_used(config.backbone, backbone)
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None
    with torch.no_grad():
        for name, buffer in backbone.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
    return note


def _too_small(features: Features, config: ResolvedRun) -> str:
    if "pyramid" not in config.backbone.provides:
        return ""
    with torch.no_grad():
        height, width = features.pyramid[-1].shape[-2:]
    if min(height, width) >= _FEWEST_PLACES:
        return ""
    return (
        f"--size {config.size} is small for {config.backbone}: its deepest maps are {height} x {width} pixels; "
        f"choose a larger one, or a network with fewer levels"
    )


def _tried(backbone: Backbone, config: ResolvedRun, needs: Set[Feature]) -> Features:
    """Features of noise, after a backward pass from all that are needed."""
    size = config.size
    try:
        features: Features = backbone(torch.randn(min(config.batch_size, 2), backbone.in_channels, size, size))
        read = [tensor.sum() for feature in needs or {"pooled"} for tensor in features.tensors(feature)]
        torch.stack(read).sum().backward()
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"{named(config.backbone)}: cannot be trained on {config.batch_size} images of {size} x {size} pixels "
            f"({in_one_line(error)}); try a --size that is a multiple of 32 or a larger one, or a larger --batch-size; "
            f"ssmtl --debug shows where it fails"
        ) from error
    return features


def _check_channels(part: str, backbone: Backbone, features: Features, trained: Sequence[Part]) -> None:
    declared: dict[Feature, int] = {"pooled": backbone.pooled_channels, "dense": backbone.dense_channels}
    actual = declared | {PARTS[part]: features.tensors(PARTS[part])[0].shape[1] for part in trained}
    if actual != declared:
        raise SsmtlError(f"{part}: returns {actual} channels, but declares {declared}; fix the backbone")
