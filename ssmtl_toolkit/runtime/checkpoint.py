"""Checkpoints that are complete or absent: safetensors, JSON, and a manifest with digests written last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssmtl_toolkit.data.files import digest, share, sync
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.text import printable, shortened

_STATE, _MANIFEST = "state.safetensors", "manifest.json"
_OURS = re.compile(r"step-\d{8,}")  # not copies that a user has put beside them
_ODD = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError)
"""Raised for a manifest with other content than we write, or nested too deeply."""


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint: all tensors by name, and other metadata (`about`)."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def step(self) -> int:
        """Number of weight updates done."""
        return int(self.about["step"])


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    about: Mapping[str, Any],
    keep: int,
    more: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write `folder/step-…` as `write` does.

    `more` are tensors beside the weights and the optimizer's, under names that begin with neither `model.` nor
    `optimizer.`.
    """
    moments, groups = optimizer_state(optimizer)
    return write(folder, named(model.state_dict()) | moments | dict(more or {}), groups, about, keep)


def write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    groups: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `folder/step-…` and remove all but the newest `keep` (0: keep all).

    Files are written into a temporary folder beside, synced, and renamed: a kill at any moment leaves the older
    checkpoints as they were.

    Args:
        folder: of all checkpoints of a training.
        tensors: by name, as `named` and `optimizer_state` give them.
        groups: the optimizer's settings.
        about: what else is kept; its `step` names the checkpoint.
        keep: how many checkpoints stay.

    Raises:
        SsmtlError: the disk is full or not writable.
    """
    target = folder / _name(about["step"])
    temporary = folder / f".{target.name}.part"
    try:
        with writable(target, what="the checkpoint "):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save_file(weights.apart(tensors), temporary / _STATE)
            share(temporary / _STATE)
            sync(temporary / _STATE)
            manifest = {**about, "optimizer": list(groups), "files": {_STATE: digest(temporary / _STATE)}}
            signed = {**manifest, "digest": _digest_of(manifest)}
            (temporary / _MANIFEST).write_text(json.dumps(signed, indent=1), encoding="utf-8")
            sync(temporary / _MANIFEST)
            sync(temporary)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    others = [path for path in _all(folder) if path != target]
    before = [path for path in others if path < target]
    stale = [path for path in others if path > target]  # damaged ones, which the run resumed before
    for old in (before[: len(before) + 1 - keep] if keep else []) + stale:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and compare every file with its digest.

    Raises:
        DataError: something is missing, damaged or not ours.
    """
    try:
        about = read_json(path / _MANIFEST)
        if about.pop("digest") != _digest_of(about) or path.name != _name(about["step"]):
            raise DataError(f"{path}: {_MANIFEST} is damaged (its digest differs, or it is another step's)")
        if type(about["step"]) is not int or about["step"] < 0:
            raise DataError(f"{path}: {_MANIFEST} says step {about['step']!r}, which is not a number of updates")
        if about["files"] != {_STATE: digest(path / _STATE)}:
            raise DataError(f"{path}: {_STATE} is damaged (its digest differs from the manifest's)")
        return Checkpoint(path, load_file(path / _STATE), about)
    except (*_ODD, OSError, SafetensorError) as error:
        raise DataError(f"{path}: is not a complete checkpoint ({_reason(error)})") from error


@contextlib.contextmanager
def reading(checkpoint: Checkpoint) -> Iterator[None]:
    """Name the checkpoint in which something is missing, or not what it should be.

    Raises:
        DataError: naming the checkpoint.
    """
    try:
        yield
    except (*_ODD, RuntimeError) as error:
        raise DataError(
            f"{checkpoint.path}: cannot be used by this version ({_reason(error)}); remove it to resume from the one "
            f"before it, or start a new run"
        ) from error


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Load the newest intact checkpoint, warning of those that are damaged; None if there is none at all.

    Raises:
        DataError: there are checkpoints, but none is intact.
    """
    checkpoints = _all(folder)
    for path in reversed(checkpoints):
        try:
            return load(path)
        except DataError as error:
            warn(f"{error}; trying the one before it")
    if checkpoints:
        raise DataError(f"{folder}: none of the {len(checkpoints)} checkpoints is intact; start a new run")
    return None


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights, buffers and optimizer state back.

    Raises:
        DataError: names or shapes differ, with the first of them.
    """
    restore_model(checkpoint, model)
    with reading(checkpoint):
        _put_back(optimizer, checkpoint.tensors, checkpoint.about["optimizer"])


def restore_model(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Put weights and buffers back.

    Raises:
        DataError: names or shapes differ, with the first of them.
    """
    tensors = {k.removeprefix("model."): v for k, v in checkpoint.tensors.items() if k.startswith("model.")}
    check_tensors(checkpoint.path, tensors, model.state_dict())
    with reading(checkpoint):
        model.load_state_dict(tensors)


def _put_back(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Restore an optimizer's settings, and what it keeps for each parameter."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    for saved, own in zip(groups, optimizer.state_dict()["param_groups"], strict=True):
        for key in saved.keys() & own.keys():
            if not _alike(saved[key], own[key]):
                raise ValueError(f"the optimizer's {key} is {saved[key]!r}")
    if unknown := state.keys() - {index for group in groups for index in group["params"]}:
        raise ValueError(f"the optimizer has no parameter {min(unknown)}")
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():  # saved contiguous; a fused update wants the parameter's own memory layout
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter).copy_(value)
            elif value.numel() != 1:
                raise ValueError(f"{key} of a parameter {tuple(parameter.shape)} is {tuple(value.shape)}")


def check_tensors(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names or shapes are not the expected ones, naming the first five."""
    wrong = [f"{printable(k)} is missing" for k in wanted if k not in tensors]
    wrong += [f"{printable(k)} is not known" for k in tensors if k not in wanted]
    wrong += [
        f"{k} is {tuple(tensors[k].shape)}, not {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if wrong:
        some = "; ".join(shortened(wrong, 5))
        raise DataError(f"{printable(path)}: {len(wrong)} tensors do not fit this network: {some}")


def save_backbone(file: Path, backbone: nn.Module, about: Mapping[str, Any]) -> None:
    """Write the backbone's tensors under the wrapped library's names, with `about` as metadata, whole or not at all."""
    weights.write(file, backbone.state_dict(), about)


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of tensors with their names, in whatever order they come."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name}\0".encode())
        total.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _digest_of(manifest: Mapping[str, Any]) -> str:
    """sha256 of a manifest without its own digest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _all(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first, by the step in their names."""
    return sorted(path for path in folder.glob("step-*") if _OURS.fullmatch(path.name))


def named(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights and buffers, by their names in a checkpoint."""
    return {f"model.{name}": tensor for name, tensor in weights.items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Split an optimizer's state into tensors, by their names in a checkpoint, and its settings."""
    whole = optimizer.state_dict()
    tensors = {
        f"optimizer.{index}.{key}": value
        for index, values in whole["state"].items()
        for key, value in values.items()
        if value is not None
    }
    return tensors, whole["param_groups"]


def _alike(saved: Any, own: Any) -> bool:
    """Whether a saved setting can replace the current one: a number, as many numbers, a switch."""
    if isinstance(own, list | tuple):
        return isinstance(saved, list) and len(saved) == len(own) and all(map(_alike, saved, own))
    if isinstance(own, bool) or own is None:
        return isinstance(saved, bool) or saved is None
    return isinstance(saved, int | float) and not isinstance(saved, bool)


def _reason(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:300])
