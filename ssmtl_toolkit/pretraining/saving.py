"""What a training writes of its weights: checkpoints, the backbone, snapshots of it, and the best by the probe."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.disk import UnwritableError
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.pretraining.behind import Behind
from ssmtl_toolkit.pretraining.start import LEARNED, seen_by
from ssmtl_toolkit.registry import our_version, registry
from ssmtl_toolkit.runtime import checkpoint, weights
from ssmtl_toolkit.runtime.about import slicing_about
from ssmtl_toolkit.runtime.fingerprint import fingerprint
from ssmtl_toolkit.runtime.folder import BACKBONE, BEST, CHECKPOINTS, HEADS, snapshot
from ssmtl_toolkit.runtime.shapes import Shapes
from ssmtl_toolkit.runtime.usage import Answer, Usage
from ssmtl_toolkit.specs import named


@dataclass(frozen=True)
class State:
    """All that a checkpoint keeps of a training, copied, so that the training can continue."""

    backbone: Backbone
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    groups: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, model: MultiTask, optimizer: torch.optim.Optimizer) -> State:
        """Copy the present state, to the memory of the CPU but for the backbone."""
        backbone = copy.deepcopy(model.backbone)
        own = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
        others = {name: tensor for name, tensor in model.state_dict().items() if name not in own}
        moments, groups = checkpoint.optimizer_state(optimizer)
        return cls(backbone, own | _copied(others), _copied(moments), groups)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


class Saver:
    """Writes the weights of one training, on the first rank; none that are not finite.

    A checkpoint, and the backbone with it, are copied while the training waits, and written while it continues:
    `settle` raises what became of that. Whatever else is written is waited for.

    Attributes:
        saved: the step of the newest checkpoint; -1: there is none.
        begun: the step of the one that was begun last.
        transfer: what became of the weights that the run started from; None: it started from random ones.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: ResolvedRun,
        model: MultiTask,
        optimizer: torch.optim.Optimizer,
        store: SliceStore,
        folder: Path,
        transfer: Mapping[str, Any] | None,
    ) -> None:
        self.fabric, self.config, self.model, self.optimizer = fabric, config, model, optimizer
        self.store, self.folder, self.transfer = store, folder, transfer
        self.saved = self.begun = self._written = -1
        self._behind, self._shapes = Behind(), Shapes(model.state_dict())

    def resumes(self, step: int) -> None:
        """Note the checkpoint from which the training continues."""
        self.saved = self.begun = self._written = step

    def checkpoint(self, step: int, about: Mapping[str, Any], before: Callable[[], None]) -> None:
        """Begin to write a checkpoint of this step, unless there is one, and the backbone.

        What was begun before must be settled. `before` is done by the same thread, first.
        """
        if self.saved != step:
            self.begun = step
            self.on_first_rank(lambda: self._begin(step, about, before))

    def _begin(self, step: int, about: Mapping[str, Any], before: Callable[[], None]) -> None:
        now = State.of(self.model, self.optimizer)
        content = {"step": step, "scans": self.store.fingerprint, **about, "transfer": self.transfer}

        def write() -> None:
            before()
            self._check_state(step, now.weights)
            tensors = {**checkpoint.named(now.weights), **now.moments}
            checkpoint.write(self.folder / CHECKPOINTS, tensors, now.groups, content, keep=self.config.keep)
            self._written = step
            self._write(self.folder / BACKBONE, step, now.backbone)
            self._heads(step, now.weights)

        self._behind.start(write)

    def settle(self, *, wait: bool) -> None:
        """Raise, on all ranks, what the writing of the last checkpoint has raised, if it is done or is waited for."""

        def settle() -> None:
            try:
                self._behind.settle(wait=wait)
            finally:
                self.saved = self._written

        self.on_first_rank(settle)

    def leave(self, note: Callable[[str], None]) -> None:
        """After an error: wait until all is written, and note what could not be."""
        try:
            self._behind.settle(wait=True)
        except SsmtlError as error:
            note(str(error))

    def snapshots(self, step: int, seen: Callable[[int], int]) -> None:
        """Keep the backbone if this step completes one of the epochs to keep it after.

        `seen` tells how many epochs are complete after so many steps.
        """
        every = self.config.snapshot_every
        if every is None:
            return
        wanted = [epoch for epoch in range(seen(step - 1) + 1, seen(step) + 1) if epoch % every == 0]
        if wanted:
            self._check_state(step, self.model.state_dict())
        for epoch in wanted:
            file = snapshot(self.folder, epoch)
            self.on_first_rank(functools.partial(self._write, file, step, self.model.backbone))

    def backbone(self, step: int) -> None:
        """Write backbone.safetensors, and heads.safetensors beside it; to be called on the first rank alone."""
        self._write(self.folder / BACKBONE, step, self.model.backbone)
        self._heads(step, self.model.state_dict())

    def best(self, step: int, probe: Mapping[str, Any]) -> None:
        """Write the backbone of the best step so far, and what it was chosen by; on the first rank alone."""
        self._write(self.folder / BEST, step, self.model.backbone, {"probe": probe})

    def last_good(self) -> str:
        """What is left to continue from, for errors."""
        return f"the checkpoint of step {self.saved} is good" if self.saved > 0 else "there is no checkpoint yet"

    def on_first_rank(self, write: Callable[[], None]) -> None:
        """Write something on the first rank; all ranks learn whether that succeeded."""
        problem, kind = "", SsmtlError
        if self.fabric.is_global_zero:
            try:
                write()
            except UnwritableError as error:
                problem, kind = f"{error}; {self.last_good()}", UnwritableError
            except SsmtlError as error:
                problem = str(error)
        problem, kind, self.saved = self.fabric.broadcast((problem, kind, self.saved))
        if problem:
            raise kind(problem)

    def _check_state(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Refuse what could not be resumed from: tensors that are not finite, or not those that it began with."""
        self._shapes.check(state, step, self._owner, f"{self.last_good()}; ")
        parameters = dict(self.model.named_parameters())
        for name, tensor in state.items():
            if not weights.is_finite(tensor):
                guard = "" if name in parameters else "guard what is written into this buffer, or "
                raise SsmtlError(
                    f"values of {name!r} are not finite after step {step}; {self.last_good()}; {guard}try a lower "
                    f"--lr, --clip 1 or --precision 32"
                )

    def _owner(self, name: str) -> str:
        """The part that has this tensor, as errors call it."""
        where, _, rest = name.partition(".")
        if where == "tasks":
            return self.model.called(self.model.labels[int(rest.partition(".")[0])])
        return named(self.config.backbone) if where == "backbone" else self.model.called("")

    def _write(self, file: Path, step: int, backbone: Backbone, more: Mapping[str, Any] = MappingProxyType({})) -> None:
        checkpoint.save_backbone(file, backbone, {**self._about(step, backbone), **more})

    def _heads(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Write the parts of tasks that answer with pictures, so that those of other slices can be drawn later."""
        shown = {
            f"tasks.{i}.": f"{label}/"
            for i, (label, task) in enumerate(zip(self.model.labels, self.model.tasks, strict=True))
            if hasattr(task, "pictures")
        }
        tensors = {
            label + name.removeprefix(prefix): tensor
            for prefix, label in shown.items()
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        if not tensors:
            return
        about = {"version": our_version(), "tasks": self._about_tasks(), "step": step, "seed": self.config.seed}
        weights.write(self.folder / HEADS, tensors, about)

    def _about_tasks(self) -> list[dict[str, Any]]:
        return [registry().origin(task) for task in self.config.tasks]

    def _about(self, step: int, backbone: Backbone) -> dict[str, Any]:
        """The metadata of a backbone's file; no paths, no patient names."""
        plugins = registry()
        own = [digest[:16] for scan in self.store.scans for digest in scan.digests]
        usage = Usage.of(self.config.slicing, self.store.channels, self.store.cuts, Answer(kind="features"))
        return {
            "version": our_version(),
            "backbone": plugins.origin(self.config.backbone),
            "tasks": self._about_tasks(),
            "balancer": plugins.origin(self.config.balancer),
            **slicing_about(self.config.slicing),
            "channels": self.store.channels,
            "usage": usage.model_dump(mode="json"),
            "trained": self.config.trained,
            "scans": {
                "number": len(self.store.scans),
                "fingerprint": self.store.fingerprint,
                "digests": [*own, *(seen for seen in seen_by(self.transfer) if seen not in own)],
            },
            "fingerprint": fingerprint(backbone, self.config.size, self.config.trained),
            "learned": (self.transfer or {}).get(LEARNED, []),
            "step": step,
            "seed": self.config.seed,
            "torch": torch.__version__,
        }
