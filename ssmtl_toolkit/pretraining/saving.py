"""What a training writes of its weights: checkpoints, the backbone, snapshots of it, and the best by the probe."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.disk import UnwritableError
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.pretraining.start import seen_by
from ssmtl_toolkit.registry import our_version, registry
from ssmtl_toolkit.runtime import checkpoint, weights
from ssmtl_toolkit.runtime.about import slicing_about
from ssmtl_toolkit.runtime.fingerprint import fingerprint
from ssmtl_toolkit.runtime.folder import BACKBONE, BEST, CHECKPOINTS, HEADS, snapshot
from ssmtl_toolkit.runtime.usage import Answer, Usage


class Saver:
    """Writes the weights of one training, on the first rank; none that are not finite.

    Attributes:
        saved: the step of the newest checkpoint; -1: there is none.
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
        self.saved = -1

    def checkpoint(self, step: int, about: Mapping[str, Any]) -> None:
        """Write a checkpoint of this step, unless there is one, and the backbone."""
        self._check_finite(step)

        def write() -> None:
            folder, content = self.folder / CHECKPOINTS, {"step": step, "scans": self.store.fingerprint, **about}
            content["transfer"] = self.transfer
            checkpoint.save(folder, self.model, self.optimizer, content, keep=self.config.keep)

        if self.saved != step:
            self.on_first_rank(write)
            self.saved = step
            self.on_first_rank(functools.partial(self.backbone, step))

    def snapshots(self, step: int, seen: Callable[[int], int]) -> None:
        """Keep the backbone if this step completes one of the epochs to keep it after.

        `seen` tells how many epochs are complete after so many steps.
        """
        every = self.config.snapshot_every
        if every is None:
            return
        wanted = [epoch for epoch in range(seen(step - 1) + 1, seen(step) + 1) if epoch % every == 0]
        if wanted:
            self._check_finite(step)
        for epoch in wanted:
            self.on_first_rank(functools.partial(self._write, snapshot(self.folder, epoch), step))

    def backbone(self, step: int) -> None:
        """Write backbone.safetensors, and heads.safetensors beside it; to be called on the first rank alone."""
        self._write(self.folder / BACKBONE, step)
        self._heads(step)

    def best(self, step: int, probe: Mapping[str, Any]) -> None:
        """Write the backbone of the best step so far, and what it was chosen by; on the first rank alone."""
        self._write(self.folder / BEST, step, {"probe": probe})

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
        problem, kind = self.fabric.broadcast((problem, kind))
        if problem:
            raise kind(problem)

    def _check_finite(self, step: int) -> None:
        weights = dict(self.model.named_parameters())
        for name, tensor in self.model.state_dict().items():
            if not torch.isfinite(tensor).all():
                guard = "" if name in weights else "guard what is written into this buffer, or "
                raise SsmtlError(
                    f"values of {name!r} are not finite after step {step}; {self.last_good()}; {guard}try a lower "
                    f"--lr, --clip 1 or --precision 32"
                )

    def _write(self, file: Path, step: int, more: Mapping[str, Any] = MappingProxyType({})) -> None:
        checkpoint.save_backbone(file, self.model.backbone, {**self._about(step), **more})

    def _heads(self, step: int) -> None:
        """Write the parts of tasks that answer with pictures, so that those of other slices can be drawn later."""
        tensors = {
            f"{label}/{name}": tensor
            for label, task in zip(self.model.labels, self.model.tasks, strict=True)
            if hasattr(task, "pictures")
            for name, tensor in task.state_dict().items()
        }
        if not tensors:
            return
        about = {"version": our_version(), "tasks": self._about_tasks(), "step": step, "seed": self.config.seed}
        weights.write(self.folder / HEADS, tensors, about)

    def _about_tasks(self) -> list[dict[str, Any]]:
        return [registry().origin(task) for task in self.config.tasks]

    def _about(self, step: int) -> dict[str, Any]:
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
            "fingerprint": fingerprint(self.model.backbone, self.config.size, self.config.trained),
            "step": step,
            "seed": self.config.seed,
            "torch": torch.__version__,
        }
