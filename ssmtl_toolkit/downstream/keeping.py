"""The state of an unfinished repetition of a fine-tuning, kept now and then and at a signal, to resume from."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmtl_toolkit.config import FinetuneConfig, ResolvedFinetune, Role
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.loop import Progressed
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime import checkpoint, origin
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress

SECONDS = 10.0
"""The least time between two saves."""
_SHARE = 0.01
"""The largest share of the time that may go into saving."""
_LOSSES, _SEMI, _COUNTS, _BEST, _AVERAGE = "losses", "semi", "counts", "best.", "average."


class RepetitionKeeper:
    """Checkpoints of one repetition, in a folder that is removed when it is finished."""

    def __init__(
        self,
        folder: Path,
        config: ResolvedFinetune,
        identity: dict[str, Any],
        machine: dict[str, Any],
        examples: Examples,
        progress: Progress,
    ) -> None:
        """`identity` says which repetition it is; a checkpoint that says something else is refused."""
        self.folder, self.config, self.machine, self.progress = folder, config, machine, progress
        self._identity, self._examples = identity, examples
        self._saved, self._cost = time.perf_counter(), 0.0

    def load(self, model: Downstream, learned: nn.Module, optimizer: torch.optim.Optimizer) -> Progressed:
        """Restore the newest intact checkpoint; without any the repetition starts from its first step.

        Raises:
            DataError: it is another repetition's.
        """
        try:
            latest = checkpoint.newest(self.folder, self.progress.note)
        except DataError as error:
            self.progress.note(f"{error}: this repetition starts from its first step")
            return Progressed()
        if latest is None:
            return Progressed()
        self._check_identity(latest)
        checkpoint.restore(latest, learned, optimizer)
        self.progress.note(f"{self.folder.parent.name}: resumed after step {latest.step}")
        device = next(model.parameters()).device
        with checkpoint.reading(latest):
            kept = {k: latest.tensors[k].to(device) for k in (_LOSSES, _SEMI, _COUNTS) if k in latest.tensors}
            losses, semi = list(kept.get(_LOSSES, ())), (list(kept.get(_SEMI, ())), kept.get(_COUNTS))
            average = self._weights(latest, _AVERAGE, model) if self.config.average else {}
            best = latest.about["best"]
            skipped = [int(step) for step in latest.about.get("skipped", ())]
            if best is None:
                return Progressed(latest.step, losses, None, average, semi, skipped)
            weights = self._weights(latest, _BEST, model)
            best_yet = float(best["score"]), int(best["step"]), weights
            return Progressed(latest.step, losses, best_yet, average, semi, skipped)

    @staticmethod
    def _weights(latest: checkpoint.Checkpoint, prefix: str, model: Downstream) -> dict[str, Tensor]:
        """Another set of the network's weights that the checkpoint holds, on the network's device."""
        device = next(model.parameters()).device
        found = {k.removeprefix(prefix): v.to(device) for k, v in latest.tensors.items() if k.startswith(prefix)}
        checkpoint.check_tensors(latest.path, found, model.state_dict())
        return found

    def _check_identity(self, latest: checkpoint.Checkpoint) -> None:
        with checkpoint.reading(latest):
            about = latest.about
            changed = self.config.differences(FinetuneConfig.of(about["options"], str(latest.path)))
            then, versions = about["repetition"], dict(about["versions"])
            changed += [f"other {k}" for k, v in self._repetition().items() if v != then[k]]
        origin.refuse(latest, changed)
        origin.tell_changes(versions, self._versions(), self.progress)
        origin.tell_changes(about, self.machine, self.progress)

    def is_due(self, *, last: bool) -> bool:
        """Whether it is time to save, or a signal has come.

        Saving takes at most a hundredth of the time. What was trained for longer than that is also saved when it is
        done: the test is to come.
        """
        waited = time.perf_counter() - self._saved
        return bool(interrupts.number) or (waited >= SECONDS and (last or waited * _SHARE >= self._cost))

    def keep(self, learned: nn.Module, optimizer: torch.optim.Optimizer, at: Progressed) -> None:
        """Save, and raise if a signal has come.

        Raises:
            InterruptedRunError: a signal has come.
            SsmtlError: the disk is full or not writable.
        """
        self.save(learned, optimizer, at)
        where = f"step {at.step} of {self.config.steps} of {self.folder.parent.name}"
        interrupts.check(f"{where} is saved, finished repetitions are kept; continue with --resume")

    def save(self, learned: nn.Module, optimizer: torch.optim.Optimizer, at: Progressed) -> None:
        """Save now; raises `SsmtlError` if the disk is full or not writable."""
        started = time.perf_counter()
        tensors = {f"{_BEST}{name}": tensor for name, tensor in (at.best[2] if at.best else {}).items()}
        tensors |= {f"{_AVERAGE}{name}": tensor for name, tensor in at.average.items()}
        if at.losses:
            tensors[_LOSSES] = torch.stack(at.losses)
        losses, counts = at.semi
        tensors |= {_SEMI: torch.stack(losses)} if losses else {}
        tensors |= {} if counts is None else {_COUNTS: counts}
        about = {
            "step": at.step,
            "best": at.best and {"score": at.best[0], "step": at.best[1]},
            "options": self.config.of_roles(Role.NUMBERS),
            "repetition": self._repetition(),
            "versions": self._versions(),
            "skipped": at.skipped,
            **self.machine,
        }
        checkpoint.save(self.folder, learned, optimizer, about, keep=2, more=tensors)
        self._saved = time.perf_counter()
        self._cost = self._saved - started

    def _repetition(self) -> dict[str, Any]:
        return {**self._identity, "slices": self._examples.digest}

    def _versions(self) -> dict[str, str]:
        specs = (self.config.backbone, self.config.head, self.config.semi, *self.config.pretext_tasks)
        return origin.versions([spec for spec in specs if spec is not None])

    def finish(self) -> None:
        """Remove the checkpoints of a finished repetition."""
        shutil.rmtree(self.folder, ignore_errors=True)
